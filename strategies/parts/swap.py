"""Logit swap: a teacher that is told the right token, and keeps its opinion of everything else (Mix-CPT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from strategies.objectives.causal_lm import precise


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


def token_divergences(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of every position, ``[S]``, in single precision at least.

    Args:
        student, teacher: logits ``[S, V]``.
    """
    log_p, log_q = precise(student).log_softmax(1), precise(teacher).log_softmax(1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
