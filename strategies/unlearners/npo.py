"""NPO: push down the likelihood of the forget set relative to the model before the request, ever less as it falls."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import before_request
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, ReferencedConfig, ReferencedUnlearner
from strategies.unlearners._pushed_down import NegativePreference
from streams.data import Data
from streams.randomness import Key


class Config(ReferencedConfig):
    """Options of `npo` (Zhang et al. 2024, arXiv 2404.05868).

    `retain`: none is NPO alone, descent NPO+RT (also written NPO+GD), kl NPO+KL.
    """

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights, where it lets `descent` repair what is broken; published for 7
    billion: 1e-5."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature; towards 0 NPO becomes gradient ascent on log-likelihoods."""


@final
class NPO(ReferencedUnlearner):
    """Negative preference optimisation against the model as it is when a request comes, or as it was at the first."""

    test_options = {"epochs": 1}
    config: Config
    ranges = PAIRED_ON_TEXT | {"beta": log(0.01, 1.0)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        """Compute the reference's log-likelihoods once, where what is to be forgotten does not change."""
        log_likelihoods, cost = before_request(self.setting, reference, objective, forget_set, self.config.epochs)
        return NegativePreference(objective, log_likelihoods, self.config.beta), cost
