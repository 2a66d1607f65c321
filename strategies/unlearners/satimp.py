"""SatImp: gradient ascent weighed by saturation and importance: tokens that are known, and not yet beyond doubt."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.ranges import TRAINED_ON_TEXT, linear, log
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner
from strategies.unlearners._weighted import WeightedAscent
from streams.data import Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `satimp` (Yang et al. 2025, arXiv 2505.11953).

    Its weights are those of the authors; OpenUnlearning's configuration weighs the forget loss a hundred times less.
    """

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    beta1: float = Field(5.0, ge=0)
    """Exponent of the probability p."""
    beta2: float = Field(1.0, ge=0)
    """Exponent of 1 - p. The pull on a token is p^beta1 (1 - p)^(1 + beta2): at p = 0.99 a hundredth of `wga`'s."""
    retain_weight: float = Field(0.1, ge=0)
    """alpha, the weight of the retained loss. With 1 the forget loss shows only where p is below 0.95."""


@final
class SatImp(PairedUnlearner):
    """Saturation-importance ascent, and descent on retained data."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {
        "beta1": linear(1.0, 8.0),
        "beta2": linear(0.0, 2.0),
        "retain_weight": log(0.01, 1.0),
    }

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return WeightedAscent(TextObjective.of(objective), self.config.beta1, self.config.beta2), Outcome()
