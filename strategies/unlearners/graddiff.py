"""Gradient difference: raise the loss of the forget set, and lower that of retained data or hold on to its outputs."""

from __future__ import annotations

from typing import Self, final

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.ranges import PAIRED_ON_TEXT
from strategies.unlearners._paired import ForgetLoss, ReferencedConfig, ReferencedUnlearner
from streams.data import Batch, Data
from streams.randomness import Key


class Config(ReferencedConfig):
    """Options of `graddiff` (Liu et al. 2022, arXiv 2203.12817; as in TOFU, arXiv 2401.06121).

    `retain`: descent is GradDiff, kl is TOFU's KL, none is gradient ascent. `neggrad-plus` weighs the same two losses
    over passes of the retained data.
    """

    lr: float = Field(1e-4, gt=0)
    """Learning rate. On a memorised forget set the gradient is near zero at first, and then grows without bound."""

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        return self.only_with_kl("reference", "first")


@final
class Ascent(ForgetLoss):
    """Minus the mean loss of a batch."""

    def __init__(self, objective: Objective) -> None:
        """Take the objective that is unlearned on."""
        self._objective = objective

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        return -self._objective.losses(outputs, batch).mean()


@final
class GradDiff(ReferencedUnlearner):
    """Ascends on the forget set while it holds on to retained data."""

    test_options = {"epochs": 1}
    config: Config
    ranges = PAIRED_ON_TEXT

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return Ascent(objective), Outcome()
