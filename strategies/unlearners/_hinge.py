"""The inverted hinge, which `ihl` and `loku` share."""

from __future__ import annotations

from typing import final

import torch

from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import precise
from strategies.parts.model import FlatModel
from strategies.unlearners._paired import ForgetLoss
from streams.data import Batch


def inverted_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return 1 + p(y) - max over v != y of p(v) of every token, ``[S]``, in (0, 2).

    Args:
        logits: ``[S, V]``.
        targets: int64 ``[S]``.
    """
    p = precise(logits).softmax(1)
    true = p.gather(1, targets.unsqueeze(1)).squeeze(1)
    # The largest of the others; among equals the first, so that only one gets the gradient.
    runner_up = logits.detach().scatter(1, targets.unsqueeze(1), float("-inf")).argmax(1)
    return 1 + true - p.gather(1, runner_up.unsqueeze(1)).squeeze(1)


@final
class Invert(ForgetLoss):
    """The mean over a batch's tokens."""

    def __init__(self, objective: TextObjective) -> None:
        """Take the objective that is unlearned on."""
        self._objective = objective

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        scored_tokens = self._objective.scored(outputs, batch)
        return inverted_hinge(scored_tokens.logits, scored_tokens.targets).mean()
