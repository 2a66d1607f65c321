"""Gradient difference: raise the loss of the forget set, and lower that of retained data or hold on to its outputs."""

from __future__ import annotations

from typing import Self, final

from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.ranges import PAIRED_ON_TEXT
from strategies.unlearners._paired import ForgetLoss, ReferencedConfig, ReferencedUnlearner
from strategies.unlearners._pushed_down import Ascent
from streams.data import Data
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
