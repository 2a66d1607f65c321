"""Feature distillation: keep the penultimate features of new data near those of the previous model."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Setting
from strategies.learners._distil import DistillingPlugin
from strategies.parts.model import FlatModel
from strategies.parts.teachers.tap import Tap
from strategies.ranges import log
from streams.config import Config as BaseConfig
from streams.data import Batch


class Config(BaseConfig):
    """Options of `feature-distillation` (Smith et al. 2023, arXiv 2203.17269)."""

    strength: float = Field(5.0, ge=0)
    """mu, the weight of distillation. Published: 5 on CIFAR-100, 1 on Tiny-ImageNet."""
    from_start: bool = False
    """Whether the initial model teaches the first experience: sensible for pretrained models only."""


def feature_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples and dimensions of (f - f_teacher)^2, both ``[B, F]``."""
    return (student - teacher).square().mean()


@final
class FeatureDistillation(DistillingPlugin):
    """Keeps a copy of the model after each experience, whose features the next ones are held to."""

    carries = ("_total", "_calls", "_forward")
    config: Config
    supports = frozenset({"classes", "numbers", "images"})
    term: ClassVar[str] = "feature_distillation"
    ranges = {"strength": log(0.1, 100.0)}
    becomes = {"naive": {"strength": 0.0}}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without a teacher, or with the initial model as one."""
        super().__init__(config, setting)
        if config.from_start:
            self._teacher.start(setting.make_model())

    @override
    def begin(self, lesson: Lesson) -> None:
        super().begin(lesson)
        if self._teacher.there and self.config.strength:
            self._tap = Tap(lesson.model, lesson.model.network.body)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        if self._tap is None:
            return loss
        with torch.no_grad():
            taught = self.setting.objective.features(self._teacher.model, batch)
        term = feature_distance(self._tap.take(batch), taught)
        self.note(term, batch)
        return loss + self.config.strength * term
