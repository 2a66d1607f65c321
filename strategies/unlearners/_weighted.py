"""Ascent in which each token counts by how likely it is, which `wga` and `satimp` share."""

from __future__ import annotations

from typing import final

import torch

from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.unlearners._paired import ForgetLoss
from streams.data import Batch


def weighted_ascent(losses: torch.Tensor, known: float, unsure: float) -> torch.Tensor:
    """Return -p^known (1 - p)^unsure loss of every token, ``[S]``; no gradient flows through the weight.

    Args:
        losses: -log p, ``[S]``.
        known: exponent of p; above 0 the pull ends when a token is forgotten.
        unsure: exponent of 1 - p; above 0 what is memorised best is pulled least.
    """
    p = losses.detach().neg().exp()
    return -p.pow(known) * (1 - p).clamp(min=0).pow(unsure) * losses


@final
class WeightedAscent(ForgetLoss):
    """Minus the mean over a batch's tokens of their weighted losses."""

    def __init__(self, objective: TextObjective, known: float, unsure: float) -> None:
        """Take the objective that is unlearned on, and the exponents."""
        self._objective, self._known, self._unsure = objective, known, unsure

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        scored_tokens = self._objective.scored(outputs, batch)
        values = weighted_ascent(scored_tokens.token_losses(), self._known, self._unsure)
        return self._objective.reduce(scored_tokens.sums(values), scored_tokens.counts).mean()
