"""Experience replay: keep a few old samples and mix them into every batch."""

from __future__ import annotations

from typing import final

import numpy as np
from pydantic import Field

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.parts.exemplars import Draws, Exemplars, Policy
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `replay` (experience replay; Chaudhry et al. 2019, arXiv 1902.10486)."""

    memory: int = Field(200, ge=1)
    """Samples kept."""
    policy: Policy = "reservoir"
    """A uniform subset of all that was seen, or an equal share for every class."""
    batch: int | None = Field(None, ge=1)
    """Replayed samples added to each batch; null takes the training batch size."""


@final
class Replay(Plugin):
    """Adds samples from a memory to every batch; the mean loss runs over both."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting)
        self._memory = Exemplars(config.memory, config.policy, setting.key / "replay" / "priority")
        self._draws: Draws | None = None

    @property
    def access(self) -> Access:
        """The memory."""
        return Access(retained=self.config.memory)

    def begin(self, lesson: Lesson) -> None:
        """Borrow the memory's samples and draw which are replayed at which step."""
        size = self.config.batch or self.setting.training.batch_size
        self._draws = self._memory.draw(lesson.data.ids, size, lesson.steps, lesson.key / "replay", lesson.door)

    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch with the step's replayed samples behind it."""
        return batch if self._draws is None else batch.concat(self._draws[step])

    def end(self, lesson: Lesson) -> Outcome:
        """Let the new samples compete for their places."""
        self._draws = None
        self._memory.compete(lesson.data)
        return Outcome()

    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples; their places go to whatever comes next."""
        self._memory.purge(request.sample_ids)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return the samples in memory."""
        return {"memory": self._memory.holds(ids)}

    def stored_ids(self) -> np.ndarray:
        """Return the samples in memory."""
        return self._memory.ids

    def state_dict(self) -> State:
        """Return the ids and classes in memory."""
        return self._memory.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Put the memory back."""
        self._memory.load_state_dict(state)
