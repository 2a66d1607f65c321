"""What `lwf` and `feature-distillation` share: the model after each experience teaches the next."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.model import FlatModel
from strategies.parts.teachers.tap import Tap
from strategies.parts.teachers.teacher import Teacher
from streams.config import Config
from streams.data import Batch
from streams.events import DeletionRequest


class DistillingPlugin(Plugin):
    """Keeps a teacher; derived classes tap the student in `begin`, and add their term to the loss."""

    term: ClassVar[str]
    """What the mean of the term is called among the losses of an outcome."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without a teacher."""
        super().__init__(config, setting)
        self._teacher = Teacher(setting)
        self._tap: Tap | None = None
        self._total = torch.zeros(())
        self._calls = self._forward = 0

    @override
    def begin(self, lesson: Lesson) -> None:
        self._calls = self._forward = 0
        self._total = torch.zeros((), device=lesson.model.parameters.device)

    def note(self, term: torch.Tensor, batch: Batch) -> None:
        """Count a term, a scalar without its weight, and the teacher's pass over the batch."""
        self._total += term.detach()
        self._calls += 1
        self._forward += len(batch)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        self._teacher.learn(lesson.model, lesson.data)
        mean = float(self._total) / self._calls if self._calls else 0.0
        return Outcome(forward=self._forward, losses={self.term: mean})

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Forget what the request's samples taught; drop the teacher when nothing that it learned is left."""
        self._teacher.purge(request)

    @override
    def settle(self, model: FlatModel) -> None:
        """Make the unlearned model the teacher; otherwise it would teach the forgotten again."""
        self._teacher.refresh(model)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"teacher": self._teacher.holds(ids)}

    @override
    def state_dict(self) -> State:
        return self._teacher.state_dict()

    @override
    def load_state_dict(self, state: State) -> None:
        self._teacher.load_state_dict(state)
