"""Losses that lower what is known of the forget set: ascent, and negative preference (`graddiff`, `npo`, `seuf`)."""

from __future__ import annotations

from typing import final

import torch

from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.preference import npo_losses
from strategies.parts.text.other_answers import Passed, Values
from strategies.unlearners._paired import ForgetLoss
from streams.data import Batch


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
class NegativePreference(ForgetLoss):
    """The mean NPO loss of a batch."""

    def __init__(self, objective: Objective, reference: Values | Passed, beta: float) -> None:
        """Keep the log-likelihoods before the request."""
        self._objective, self._reference, self._beta = objective, reference, beta

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        losses = -self._objective.log_likelihoods(outputs, batch)
        return npo_losses(losses, -self._reference.of(batch), self._beta).mean()
