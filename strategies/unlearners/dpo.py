"""DPO: prefer answers that say nothing to the true answers of the forget set (IdkDPO)."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals, log_likelihoods
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, ReferencedConfig, ReferencedUnlearner
from strategies.unlearners._preference import Preference
from streams.data import Data
from streams.randomness import Key


class Config(ReferencedConfig):
    """Options of `dpo` (Rafailov et al. 2023, arXiv 2305.18290; with refusals, TOFU, arXiv 2401.06121)."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature."""


@final
class DPO(ReferencedUnlearner):
    """Direct preference optimisation of refusals over true answers, against the model as it was at a request."""

    test_options = {"epochs": 1, "lr": 1e-3}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT | {"beta": log(0.01, 1.0)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        """Compute the reference's log-likelihoods of true answers and of every refusal once."""
        refusals = Refusals(objective, key)
        true = log_likelihoods(reference, objective, forget_set)
        refused = refusals.log_likelihoods(reference, objective, forget_set)
        cost = Outcome(forward=len(forget_set) * (1 + len(refusals.answers)))
        return Preference(objective, refusals, true, refused, self.config.beta), cost
