"""What the papers prove of the distance to a retrained head, without looking at the retained data's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch

from strategies.parts.convex.softmax import THIRD

GuoBound = Literal["paper", "fourth", "worst-case"]


def spectral_norm(x: torch.Tensor) -> float:
    """Return the largest singular value of ``[n, d]``, exactly: power iterations find a smaller one."""
    return float(torch.linalg.eigvalsh(x.T @ x)[-1].clamp(min=0.0).sqrt())


def guo(
    x: torch.Tensor, move: torch.Tensor, reach: float, kind: Literal["paper", "fourth"], third: float = THIRD
) -> float:
    """Return what one Newton step leaves of the gradient of the summed loss at most (Guo et al. 2020).

    Args:
        x: ``[n, d]``, the retained rows.
        move: ``[d, K]``, the step H^-1 Delta.
        reach: no row is longer.
        kind: paper: gamma ||X|| ||move|| ||X move|| (their data-dependent bound, for rows up to length 2; longer ones
            make it reach / 2 times as much). fourth: (gamma / 2) ||X|| sqrt(sum_i ||move^T x_i||^4), which implies it.
        third: gamma, the Lipschitz constant of a row's Hessian in the logits.
    """
    z, norm = x @ move, spectral_norm(x)
    if kind == "fourth":
        return third / 2 * norm * float(z.norm(dim=1).pow(4).sum().sqrt())
    return third * max(1.0, reach / 2) * norm * float(move.norm()) * float(z.norm())


def guo_worst_case(gradient: float, l2: float, rows: int, removed: int, reach: float, third: float = THIRD) -> float:
    """Return the same for any data (Theorem 3 for one row of length 1).

    Args:
        gradient: the largest that a row's loss has, with its share of the regulariser.
        l2: lambda of the mean loss.
        rows: retained.
        removed: how many are taken out at once.
        reach: no row is longer.
        third: see `guo`.

    >>> round(guo_worst_case(2.0, 1e-3, 11_981, 1, 1.0, 0.25), 1)
    83.5
    """
    return third * reach**3 * (removed * gradient) ** 2 / (l2**2 * rows)


def guo_budget(epsilon: float, delta: float) -> float:
    """Return the largest residual over the noise's deviation: epsilon / c, delta = 1.5 exp(-c^2 / 2) (Theorem 3)."""
    return epsilon / math.sqrt(2 * math.log(1.5 / delta))


def contraction(smooth: float, convex: float) -> float:
    """Return what one step of gradient descent at rate 2 / (L + m) leaves of the distance to the minimiser."""
    return (smooth - convex) / (smooth + convex)


def neel_error(lipschitz: float, convex: float, rows: int, left: float) -> float:
    """Return how far descent-to-delete is from the minimiser after any number of updates (Neel et al. 2021).

    Args:
        lipschitz: of a row's loss (M).
        convex: strong convexity (m).
        rows: at the beginning (n); the bound holds while at least half of them are there.
        left: what the steps of one update leave of a distance (gamma^I).
    """
    return 4 * lipschitz * left / (convex * rows * (1 - left))


def neel_sigma(lipschitz: float, convex: float, rows: int, left: float, epsilon: float, delta: float) -> float:
    """Return the noise that the paper publishes with while the iterate stays secret (its Theorem 3.1)."""
    distance = 2 * neel_error(lipschitz, convex, rows, left)
    log = math.log(1 / delta)
    return distance / (math.sqrt(2) * (math.sqrt(log + epsilon) - math.sqrt(log)))


Link = tuple[Literal["kept", "gone"], float]
"""What requests did to a task of a chain: whether it is still there, and how far its own step can differ for that (0
for a task that nobody named)."""


def anchored(links: Iterable[Link], shrink: float) -> float:
    """Return how far the end of an anchored chain can be from that of a life without what was deleted.

    W_t = argmin f_t(W) + lambda/2 ||W - W_(t-1)||^2 brings two chains together by `shrink` = lambda / (lambda + mu_f)
    wherever both of them take a step. Where a task is gone, only one of them does: nothing shrinks, and the distance
    grows by that step.
    """
    distance = 0.0
    for kind, own in links:
        distance = (shrink * distance if kind == "kept" else distance) + own
    return distance
