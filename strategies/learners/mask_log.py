"""Mask log: keep which weights earlier requests were free to change, for `alkn`."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.weights.masks import MaskLog
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """`mask-log` has no options."""


@final
class MaskLogger(Plugin):
    """Keeps one mask; training is not changed.

    Each request's mask derives from the weights, and so from all that was learned by then. `holds` reports that, and no
    unlearner takes it away.
    """

    config: Config
    idle_state = dict.fromkeys(("log/used", "log/thresholds"), "only `alkn` writes it: tests/unit/test_alkn.py")

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without a mask."""
        super().__init__(config, setting)
        self._log = MaskLog(setting.zeros())
        self._learned, self._derived = (np.zeros(setting.num_samples, dtype=bool) for _ in range(2))

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._learned[lesson.data.ids] = True
        return Outcome()

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Take note of what the weights derive from, by which the request's mask is about to be made."""
        self._derived |= self._learned

    @override
    def offers(self) -> tuple[object, ...]:
        return (self._log,)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {} if self._log.is_first else {"masks": ids[self._derived[ids]]}

    @override
    def state_dict(self) -> State:
        derived = {"learned": torch.from_numpy(self._learned.copy()), "masks": torch.from_numpy(self._derived.copy())}
        return {"log": self._log.state_dict(), "derived": derived}

    @override
    def load_state_dict(self, state: State) -> None:
        self._log.load_state_dict(state["log"])
        self._learned, self._derived = (state["derived"][name].numpy().copy() for name in ("learned", "masks"))
