"""Logit swap: a teacher that is given the right token, and keeps its opinion of everything else (Mix-CPT)."""

from __future__ import annotations

import torch

from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import token_divergences
from streams.data import Batch


def swapped(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return logits in which the largest of each row and that of its target have changed places, ``[S, V]``.

    The target is then the most likely token, and each row has the same probabilities as before, in another order.
    Nothing changes where the target is the most likely one already; of equal ones the first counts.

    Args:
        logits: ``[S, V]``, left as they are.
        targets: int64 ``[S]``.

    >>> swapped(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1])).tolist()
    [[1.0, 3.0, 2.0]]
    """
    top, target = logits.argmax(1, keepdim=True), targets.unsqueeze(1)
    highest, own = logits.gather(1, top), logits.gather(1, target)  # both read before either is written
    return logits.clone().scatter_(1, target, highest).scatter_(1, top, own)


def swapped_divergences(
    objective: TextObjective, outputs: torch.Tensor, reference: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Return KL(swapped reference || model) over the positions that count, reduced as the losses are, ``[B]``.

    Args:
        objective: of the positions.
        outputs, reference: logits ``[B, T, V]`` of the model and of its teacher.
        batch: what they are of.
    """
    scored_tokens, reference_tokens = objective.scored(outputs, batch), objective.scored(reference, batch)
    apart = token_divergences(scored_tokens.logits, swapped(reference_tokens.logits, reference_tokens.targets))
    return objective.reduce(scored_tokens.sums(apart), scored_tokens.counts)
