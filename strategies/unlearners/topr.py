"""TOPR: off-policy REINFORCE with the forget set as negative examples, each weighed less as it becomes unlikely."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Passed, Values, before_request
from strategies.ranges import PAIRED_ON_TEXT
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner
from streams.data import Batch, Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `topr` (tapered off-policy REINFORCE; Le Roux et al. 2025, arXiv 2503.14286), as an unlearner.

    The forget set has reward -1 and is weighed by min(1, p / p_before) of whole answers; retained data has reward 1 and
    full weight, which is `retain: descent`.
    """

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 8 billion, with Adafactor: 5e-7."""


def tapered_losses(losses: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
    """Return -min(1, p / p_before) loss of every negative example, ``[B]``; no gradient flows through the weight.

    Args:
        losses: -log p of every sample, ``[B]``: of a text the mean over its tokens.
        log_ratio: log p minus that under the model before the request, ``[B]``.
    """
    return -log_ratio.detach().clamp(max=0).exp() * losses


@final
class Taper(ForgetLoss):
    """The mean tapered loss of a batch."""

    def __init__(self, objective: Objective, plain: Objective, before: Values | Passed) -> None:
        """Keep the log-likelihoods before the request; `plain` is the objective of the losses that are weighed."""
        self._objective, self._plain, self._before = objective, plain, before

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        log_ratio = self._objective.log_likelihoods(outputs, batch) - self._before.of(batch)
        return tapered_losses(self._plain.mean_losses(outputs, batch), log_ratio).mean()


@final
class TOPR(PairedUnlearner):
    """Tapered off-policy REINFORCE; the behaviour policy is the model when a request comes."""

    test_options = {"epochs": 1}
    config: Config
    ranges = PAIRED_ON_TEXT

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        before, cost = before_request(self.setting, reference, objective, forget_set, self.config.epochs)
        return Taper(objective, self.setting.objective, before), cost
