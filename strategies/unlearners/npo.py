"""NPO: push down the likelihood of the forget set relative to the model before the request, ever less as it falls."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Passed, Values, before_request
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, ReferencedConfig, ReferencedUnlearner
from streams.data import Batch, Data
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


def npo_losses(losses: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (2 / beta) log(1 + (p / p_ref)^beta) of every sample, ``[B]`` (eq. 3).

    Its gradient is -W d loss with W = 2 r^beta / (1 + r^beta), r = p / p_ref: 1 at the start, at most 2, and 0 for
    what is forgotten.

    Args:
        losses: -log p of every sample ``[B]``: of a text the sum over its tokens.
        reference: those of the model before the request.
        beta: inverse temperature.
    """
    return (2 / beta) * F.softplus(beta * (reference - losses))


@final
class Preference(ForgetLoss):
    """The mean NPO loss of a batch."""

    def __init__(self, objective: Objective, reference: Values | Passed, beta: float) -> None:
        """Keep the log-likelihoods before the request."""
        self._objective, self._reference, self._beta = objective, reference, beta

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        losses = -self._objective.log_likelihoods(outputs, batch)
        return npo_losses(losses, -self._reference.of(batch), self._beta).mean()


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
        return Preference(objective, log_likelihoods, self.config.beta), cost
