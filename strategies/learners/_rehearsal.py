"""What `replay`, `er-ace` and `agem` share: a memory of old samples, a few of which are drawn for every step."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.parts.memory.exemplars import Draws, Exemplars, Policy
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class RehearsalConfig(BaseConfig):
    """Options of everything that keeps old samples; how many and which is up to each."""

    memory: int
    policy: Policy
    batch: int | None


class Rehearsal(Plugin):
    """Keeps samples, and borrows those of every step before an experience begins."""

    config: RehearsalConfig
    name: ClassVar[str]
    """Of the plugin, for the names of its randomness."""

    def __init__(self, config: RehearsalConfig, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting)
        self._memory = Exemplars(config.memory, config.policy, setting.key / self.name / "priority")
        self._draws: Draws | None = None

    @property
    def access(self) -> Access:
        """The memory."""
        return Access(retained=self.config.memory)

    def begin(self, lesson: Lesson) -> None:
        """Borrow the memory's samples and draw which are taken at which step."""
        size = self.config.batch or self.setting.training.batch_size
        self._draws = self._memory.draw(lesson.data.ids, size, lesson.steps, lesson.key / self.name, lesson.door)

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
