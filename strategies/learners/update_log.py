"""Update log: keep the change of the weights at every step, for `amnesiac` to subtract."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Plugin, Setting, State
from strategies.parts.weights.updates import UpdateLog
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import TrainingError


class Config(BaseConfig):
    """Options of `update-log`."""

    max_megabytes: float = Field(1024.0, gt=0)
    """Stop with a message before the log outgrows that: a step costs as much memory as the model."""


@final
class UpdateLogger(Plugin):
    """Keeps every step's change and the ids of its batch, replayed ones included. Training is not changed.

    The log derives from all that was ever learned: later changes were computed at weights that had seen earlier data.
    `holds` reports it after a request, also after `amnesiac`.
    """

    carries = ("_log", "_derived")
    state_grows = True
    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty log."""
        super().__init__(config, setting)
        self._log = UpdateLog()
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._ids = np.array([], dtype=np.int64)

    @override
    def begin(self, lesson: Lesson) -> None:
        """Make sure that the lesson's steps fit.

        Raises:
            TrainingError: they do not.
        """
        parameters = lesson.model.parameters
        size = (len(self._log) + lesson.steps) * parameters.numel() * parameters.element_size() / 2**20
        if size > self.config.max_megabytes:
            raise TrainingError(
                f"update-log: {len(self._log) + lesson.steps} steps of this model take {size:.0f} MB; "
                f"update-log.max_megabytes is {self.config.max_megabytes:g}. Raise it, or train in larger batches."
            )

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        self._ids = batch.ids.cpu().numpy()
        return losses

    @override
    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        self._log.add(self._ids, change)
        self._derived[self._ids] = True

    @override
    def offers(self) -> tuple[object, ...]:
        return (self._log,)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"updates": ids[self._derived[ids]]}

    @override
    def state_dict(self) -> State:
        return {"log": self._log.state_dict(), "derived": torch.from_numpy(self._derived.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._log.load_state_dict(state["log"])
        self._derived = state["derived"].numpy().copy()
