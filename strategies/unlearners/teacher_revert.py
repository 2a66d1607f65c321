"""Teacher revert: hold the forget set to what the model said before it ever saw it, and go on as Mix-CPT elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._text import TextObjective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.original import Original
from strategies.parts.teachers.swap import swapped_divergences
from strategies.parts.training.endless import supply
from strategies.parts.training.optimizers import Beta
from strategies.ranges import TRAINED_ON_TEXT, log
from strategies.unlearners._retained import ReadsRetained, RetainedData, retained_data
from streams.data import Batch
from streams.events import DeletionRequest


class Config(FitConfig):
    """Options of `teacher-revert`, this project's own companion to Mix-CPT."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step, of each kind."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights."""
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    """Decay rates of `adam`'s moments."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Scale a gradient down to that norm if it is longer; null leaves it."""
    strength: float = Field(1.0, ge=0)
    """lambda, the weight of logit-swap self-distillation on retained data."""
    retained: RetainedData = "full"
    """Go on with all live data, or with what the learner's plugins keep (general questions)."""


@final
class TeacherRevert(ReadsRetained):
    """Minimises KL(original || model) on the forget set, plus next-token loss and swapped distillation elsewhere.

    The original that `mix-cpt` keeps teaches if it never saw any of the request's samples; if it did, the initial model
    teaches. On the forget set its logits are not swapped: that would teach the samples again.
    """

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {"strength": log(0.1, 10.0)}

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("mix-cpt",)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        key = self.setting.key / "teacher-revert" / request.name
        teacher = learner.part(Original).innocent_of(request.sample_ids)
        forget_set, retained = door.forget_set(), retained_data(self.config.retained, learner, door)
        objective = TextObjective.of(learner.setting.objective).training_on(forget_set)
        batches = supply(objective, retained, self.config.batch_size, key)
        hook = Revert(objective, teacher, batches, self.config.strength)
        outcome = fit(learner.model, objective, forget_set, self.config, key, [hook])
        extra = Outcome(forward=outcome.forward + 2 * hook.retained, backward=hook.retained)
        return (outcome + extra).graded("none")


@final
class Revert(Hooks):
    """Replaces the loss."""

    carries = ("_batches", "retained")

    def __init__(
        self, objective: TextObjective, teacher: FlatModel, batches: Iterator[Batch] | None, strength: float
    ) -> None:
        """Take what the loss is made of.

        Args:
            objective: over all tokens.
            teacher: innocent of what is forgotten.
            batches: retained data, or None.
            strength: lambda.
        """
        self._objective, self._teacher, self._batches, self._strength = objective, teacher, batches, strength
        self.retained = 0

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return KL on the forget set + L_NTP + lambda L_LSSD on retained data."""
        objective = self._objective
        reverted = objective.divergences(outputs, self._teacher_outputs(batch), batch).mean()
        if self._batches is None:
            return reverted
        retained_batch = next(self._batches)
        self.retained += len(retained_batch)
        now = objective.outputs(model, retained_batch)
        retained_divergence = swapped_divergences(
            objective, now, self._teacher_outputs(retained_batch), retained_batch
        ).mean()
        return reverted + objective.losses(now, retained_batch).mean() + self._strength * retained_divergence

    def _teacher_outputs(self, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return self._objective.outputs(self._teacher, batch)
