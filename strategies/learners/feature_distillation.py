"""Feature distillation: keep the penultimate features of new data near those of the previous model."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.model import FlatModel
from strategies.parts.teacher import Tap, Teacher
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `feature-distillation` (Smith et al. 2023, arXiv 2203.17269)."""

    strength: float = Field(5.0, ge=0)
    """mu, the weight of distillation. Published: 5 on CIFAR-100, 1 on Tiny-ImageNet."""
    from_start: bool = False
    """Whether the initial model teaches the first experience: sensible for pretrained models only."""


def feature_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples and dimensions of (f - f_teacher)^2."""
    return (student - teacher).square().mean()


@final
class FeatureDistillation(Plugin):
    """Keeps a copy of the model after each experience, whose features the next ones are held to."""

    config: Config
    on_text: ClassVar[bool] = False

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without a teacher, or with the initial model as one."""
        super().__init__(config, setting)
        self._teacher = Teacher(setting)
        if config.from_start:
            self._teacher.start(setting.make_model())
        self._tap: Tap | None = None
        self._total = torch.zeros(())
        self._calls = self._forward = 0

    def begin(self, lesson: Lesson) -> None:
        """Listen to the student's body, if there is a teacher."""
        self._calls = self._forward = 0
        self._total = torch.zeros((), device=lesson.model.parameters.device)
        if self._teacher.there and self.config.strength:
            self._tap = Tap(lesson.model.network.body)

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Add the distance of the batch's features."""
        if self._tap is None:
            return loss
        term = feature_distance(self._tap.take(batch.x), self._teacher.features(batch.x))
        self._total += term.detach()
        self._calls += 1
        self._forward += len(batch)
        return loss + self.config.strength * term

    def end(self, lesson: Lesson) -> Outcome:
        """Make the model the next teacher."""
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        self._teacher.learn(lesson.model, lesson.data)
        mean = float(self._total) / self._calls if self._calls else 0.0
        return Outcome(forward=self._forward, losses={"feature_distillation": mean})

    def purge(self, request: DeletionRequest) -> None:
        """Drop the teacher when nothing that it learned is left."""
        self._teacher.purge(request)

    def settle(self, model: FlatModel) -> None:
        """Make the unlearned model the teacher; otherwise it would teach the forgotten again."""
        self._teacher.refresh(model)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the teacher was derived from."""
        return {"teacher": self._teacher.holds(ids)}

    def state_dict(self) -> State:
        """Return the teacher."""
        return self._teacher.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Put the teacher back."""
        self._teacher.load_state_dict(state)
