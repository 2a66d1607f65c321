"""Importance log: note every weight's importance while learning, so that `ssd` needs no retained data."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.weights.dampening import ImportanceKind, ImportanceLog
from strategies.parts.weights.fisher import diagonal_fisher, output_sensitivity
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """Options of `importance-log`."""

    kind: ImportanceKind = "loss"
    """loss: mean (d l)^2, for `ssd`. output: mean abs(d ||f||^2), for `lfssd`."""


@final
class ImportanceLogger(Plugin):
    """Takes the importance of each experience's samples at the weights that learning them led to.

    Training is not changed. `ssd` with ``whole: stored`` takes the forget set out again; what is left then still
    derives from it (later weights had seen it), which `holds` reports.
    """

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing noted."""
        super().__init__(config, setting)
        self._log = ImportanceLog(config.kind, setting.zeros())
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        objective = self.setting.objective
        if self.config.kind == "loss":
            importance, cost = diagonal_fisher(
                lesson.model, objective, lesson.data, "empirical", lesson.key / "importance"
            )
        else:
            importance, cost = output_sensitivity(lesson.model, objective, lesson.data)
        self._log.add(importance, len(lesson.data))
        self._derived[lesson.data.ids] = True
        return cost

    @override
    def offers(self) -> tuple[object, ...]:
        return (self._log,)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"importances": ids[self._derived[ids]]}

    @override
    def state_dict(self) -> State:
        return {"log": self._log.state_dict(), "derived": torch.from_numpy(self._derived.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._log.load_state_dict(state["log"])
        self._derived = state["derived"].numpy().copy()
