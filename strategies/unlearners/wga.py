"""WGA: gradient ascent in which each token weighs as much as it is likely, so that it ends by itself."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner
from strategies.unlearners._weighted import WeightedAscent
from streams.data import Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `wga` (Wang et al. 2025, arXiv 2502.19301)."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    beta: float = Field(1.0, ge=0)
    """Exponent of the probability; 0 is `graddiff`. The pull on a token is p^beta (1 - p): as on a memorised one with
    plain ascent it is small at first, and it is largest half-way."""


@final
class WGA(PairedUnlearner):
    """Weighted gradient ascent, and descent on retained data."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT | {"beta": log(0.2, 5.0)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return WeightedAscent(TextObjective.of(objective), self.config.beta, 0.0), Outcome()
