"""Selective dampening: shrink weights that matter more to a few samples than to all (SSD), and a running importance."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import torch

ImportanceKind = Literal["loss", "output"]
"""mean (d loss)^2, or mean abs(d ||outputs||^2)."""


def dampened(
    theta: torch.Tensor, whole: torch.Tensor, forget: torch.Tensor, alpha: float, strength: float
) -> tuple[torch.Tensor, float]:
    """Return the dampened weights and the share that was selected (Foster et al. 2024).

    Where forget > alpha x whole a weight is multiplied by min(strength x whole / forget, 1). No weight grows or
    changes its sign.

    Args:
        theta: weights ``[P]``.
        whole, forget: importances of all data and of the forget set, ``[P]``, at least 0.
        alpha: how many times as important a weight must be to be selected.
        strength: lambda.
    """
    selected = forget > alpha * whole
    factor = torch.where(selected, strength * whole / forget, 1.0).clamp(max=1.0)
    return theta * factor, float(selected.float().mean())


def adaptive_alpha(whole: torch.Tensor, forget: torch.Tensor, forget_share: float) -> float:
    """Return the p-th percentile of forget / whole, p = 100 - ln(1 + 100 n_f / n) (arXiv 2402.10098).

    Args:
        whole, forget: importances ``[P]``, at least 0; weights with `whole` 0 are left out.
        forget_share: n_f / n, 0 to 1.

    Returns:
        Infinity if no weight matters at all.
    """
    ratio = (forget / whole)[whole > 0]
    if not len(ratio):
        return math.inf
    p = 100 - math.log(1 + 100 * forget_share)
    return float(ratio.sort().values[min(int(p / 100 * len(ratio)), len(ratio) - 1)])


@final
class ImportanceLog:
    """The mean importance over all that was learned, each experience's at the weights that learning it led to."""

    def __init__(self, kind: ImportanceKind, like: torch.Tensor) -> None:
        """Start with nothing."""
        self.kind = kind
        self.mean = torch.zeros_like(like)
        self.count = 0

    def add(self, importance: torch.Tensor, count: int) -> None:
        """Take in the mean importance of `count` more samples; of none, nothing."""
        if not count:
            return
        self.count += count
        self.mean += (importance - self.mean) * (count / self.count)

    def remove(self, importance: torch.Tensor, count: int) -> None:
        """Take samples out again: (n I - n_f I_f) / (n - n_f), not below 0; exact only at unchanged weights."""
        remaining = max(self.count - count, 0)
        if remaining:
            self.mean = ((self.mean * self.count - importance * count) / remaining).clamp(min=0)
        else:
            self.mean.zero_()
        self.count = remaining

    def state_dict(self) -> dict[str, Any]:
        """Return mean and count, copied."""
        return {"mean": self.mean.clone(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put mean and count back."""
        self.mean, self.count = state["mean"].clone(), state["count"]
