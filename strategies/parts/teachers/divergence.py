"""Distances between the outputs of a teacher and a student, one number per sample."""

from __future__ import annotations

import torch


def softened_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of every sample, ``[B]``.

    Args:
        student, teacher: logits ``[B, K]``; outputs that are forbidden (minus infinity) in both do not count.
        temperature: T.
    """
    log_q, log_p = (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)
    return temperature**2 * kl_to(log_p, log_q.exp(), log_q)


def kl_to(log_p: torch.Tensor, q: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return sum_k q_k (log q_k - log p_k) ``[B]``; a term with q_k = 0 is 0, also where log p_k is -inf.

    Args:
        log_p: log probabilities ``[B, K]``.
        q, log_q: probabilities ``[B, K]``, and their logarithms.
    """
    impossible = q == 0
    difference = log_q.masked_fill(impossible, 0.0) - log_p.masked_fill(impossible, 0.0)
    return (q * difference).sum(1)
