"""What `replay`, `er-ace` and `agem` share: a memory of old samples, a few of which are drawn for every step."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.parts.memory.draws import Draws
from strategies.parts.memory.exemplars import Exemplars, Policy
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class RehearsalConfig(BaseConfig):
    """Options of everything that keeps old samples; how many and which is up to each."""

    memory: int
    policy: Policy
    batch: int | None


class Rehearsal(Plugin):
    """Keeps samples, and borrows those of every step before an experience begins."""

    test_options = {"memory": 30, "batch": 8}
    config: RehearsalConfig
    name: ClassVar[str]
    """Of the plugin, for the names of its randomness."""

    def __init__(self, config: RehearsalConfig, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting)
        self._memory = Exemplars(config.memory, config.policy, setting.key / self.name / "priority")
        self._draws: Draws | None = None
        self._is_balanced = config.policy == "class-balanced"
        self._counted = np.zeros(setting.num_samples, dtype=bool)  # whose class had a say in what else is kept

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self.config.memory)

    @override
    def begin(self, lesson: Lesson) -> None:
        """Borrow the memory's samples and draw which are taken at which step."""
        size = self.config.batch or self.setting.training.batch_size
        self._draws = self._memory.draw(lesson.data.ids, size, lesson.steps, lesson.key / self.name, lesson.door)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._draws = None
        self._memory.compete(lesson.data)
        if self._is_balanced:
            self._counted[lesson.data.ids] = True
        return Outcome()

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples; their places go to whatever comes next."""
        self._memory.purge(request.sample_ids)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"memory": self._memory.holds(ids), "balance": ids[self._counted[ids]]}

    @override
    def stored_ids(self) -> np.ndarray:
        return self._memory.ids

    @override
    def state_dict(self) -> State:
        balance = {"counted": torch.from_numpy(self._counted.copy())} if self._is_balanced else {}
        return self._memory.state_dict() | balance

    @override
    def load_state_dict(self, state: State) -> None:
        self._memory.load_state_dict(state)
        if self._is_balanced:
            self._counted = state["counted"].numpy().copy()
