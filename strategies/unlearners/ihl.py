"""IHL: let the runner-up overtake each token of the forget set, by a hinge loss that cannot run away (LoKU's loss)."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.ranges import PAIRED_ON_TEXT
from strategies.unlearners._hinge import Invert
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner
from streams.data import Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `ihl` (Cha et al. 2024, arXiv 2408.06621) on all weights; `loku` trains low-rank adapters by it."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for low-rank adapters: 1e-4 to 2e-4."""


@final
class IHL(PairedUnlearner):
    """Inverted hinge loss on the forget set, descent on retained data."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return Invert(TextObjective.of(objective)), Outcome()
