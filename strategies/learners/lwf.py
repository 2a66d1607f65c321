"""LwF: distil the previous model's predictions on the new data into the new model (prediction distillation)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Setting
from strategies.learners._distil import DistillingPlugin
from strategies.objectives._base import ClassObjective
from strategies.parts.model import FlatModel
from strategies.parts.teachers.tap import Tap
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `lwf` (Li and Hoiem 2016, arXiv 1606.09282; bce: Smith et al. 2023, arXiv 2203.17269)."""

    strength: float = Field(1.0, ge=0)
    """lambda, the weight of distillation."""
    distance: Literal["softmax", "bce"] = "softmax"
    """softmax: L + lambda KL(teacher || student) over the old classes at a temperature. bce: PredKD, sigmoid targets on
    the old outputs, (n L + lambda p KD) / (n + lambda p) for n new and p old classes, so that at 1 all n + p outputs
    share one mean; it needs `objective: {name: classification, loss: bce, mask: experience}`."""
    temperature: float = Field(2.0, gt=0)
    """T of `softmax`: both sides are softened by p^(1/T)."""
    scale_by_t_squared: bool = False
    """Multiply the softmax term by T^2, so that its gradient does not shrink as T grows. No published LwF does."""


def softmax_distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return KL(softmax(teacher / T) || softmax(student / T)) of logits ``[B, K]``, the mean over samples.

    Its gradient is that of the cross-entropy with soft targets; it is zero where both agree.
    """
    log_p, log_q = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def bce_distillation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples and outputs of BCE(sigmoid(student), sigmoid(teacher)), both ``[B, K]``."""
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def gaussian_distillation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of unit Gaussians around outputs ``[B, K]``: half the squared distance, the mean."""
    return 0.5 * (student - teacher).square().sum(1).mean()


@final
class LwF(DistillingPlugin):
    """Keeps a copy of the model after each experience, which teaches the next."""

    carries = ("_total", "_calls", "_forward")
    config: Config
    supports = frozenset({"classes", "numbers"})
    term: ClassVar[str] = "lwf_distillation"
    ranges = {"strength": log(0.1, 10.0), "temperature": linear(1.0, 5.0)}
    becomes = {"naive": {"strength": 0.0}}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without a teacher.

        Raises:
            ConfigError: `bce` on another objective than classification by BCE.
        """
        super().__init__(config, setting)
        objective = ClassObjective.of(setting.objective) if setting.objective.predicts == "classes" else None
        by_bce = objective is not None and objective.loss == "bce" and objective.training_mask == "experience"
        if config.distance == "bce" and not by_bce:
            raise ConfigError(
                "lwf.distance: bce weighs old and new outputs of a sigmoid classifier; set objective: {name: "
                "classification, loss: bce, mask: experience}."
            )
        self._classes = objective
        self._heads: list[torch.Tensor] = []
        self._new_share = 1.0

    @override
    def begin(self, lesson: Lesson) -> None:
        """Choose what is distilled: the outputs of classes that are known and not deleted, head by head."""
        super().begin(lesson)
        self._heads, self._new_share = [], 1.0
        if not (self._teacher.there and self.config.strength):
            return
        device = lesson.model.parameters.device
        known_classes = set(self._teacher.known)
        if self.config.distance == "bce":
            new = set(lesson.data.targets().tolist())
            known_classes -= new
            self._new_share = len(new) / (len(new) + self.config.strength * len(known_classes))
        if self._classes is None:  # numbers: all of them
            known_classes = set(range(self.setting.objective.num_outputs))
        masks = self._classes is not None and self._classes.masks
        groups = [known_classes & set(u.classes) for u in self.setting.units] if masks else [known_classes]
        self._heads = [torch.tensor(sorted(g), device=device) for g in groups if g]
        if self._heads and masks:
            self._tap = Tap(lesson.model, lesson.model.network)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Add the distillation on the batch. A task's outputs on another task's samples are read before the mask."""
        if not self._heads:
            return loss
        student = outputs if self._tap is None else self._tap.take(batch)
        with torch.no_grad():
            teacher = self._outputs(self._teacher.model, batch)
        pairs = [(student.index_select(1, h), teacher.index_select(1, h)) for h in self._heads]
        term = torch.stack([self._distance(s, t) for s, t in pairs]).sum()
        self.note(term, batch)
        if self.config.distance == "bce":
            return self._new_share * loss + (1 - self._new_share) * term
        return loss + self.config.strength * term

    def _outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        return self._classes.logits(model, batch) if self._classes else self.setting.objective.outputs(model, batch)

    def _distance(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self._classes is None:
            return gaussian_distillation(student, teacher)
        if self.config.distance == "bce":
            return bce_distillation(student, teacher)
        t = self.config.temperature
        term = softmax_distillation(student, teacher, t)
        return t**2 * term if self.config.scale_by_t_squared else term
