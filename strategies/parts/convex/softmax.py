"""The regularised softmax head: mean loss over rows, its gradient and products with its Hessian, all in closed form.

F(W) = 1/n sum_i l(W^T x_i, y_i) + lambda/2 ||W||^2, n the rows that are there: lambda-strongly convex whatever the
features, so that ||grad F(W)|| / lambda bounds the distance of W to the minimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

THIRD = 2 * math.sqrt(2) / (6 * math.sqrt(3))
"""Lipschitz constant of the softmax loss's Hessian in the logits, for any number of classes. Of the logistic loss in
its one logit it is 1 / (6 sqrt 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What is learned from.

    Attributes:
        x: float64 ``[n, d]`` features.
        y: int64 ``[n]`` classes.
        forbidden: bool ``[n, K]`` classes outside of each row's task, or None.
    """

    x: torch.Tensor
    y: torch.Tensor
    forbidden: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def part(self, where: torch.Tensor) -> Rows:
        """Return the rows at some positions."""
        return Rows(self.x[where], self.y[where], None if self.forbidden is None else self.forbidden[where])


def lipschitz(reach: float) -> float:
    """Return a bound on the gradient of one row's loss, if its features are no longer than `reach`."""
    return math.sqrt(2) * reach


def smoothness(reach: float) -> float:
    """Return a bound on the largest eigenvalue of one row's Hessian, if its features are no longer than `reach`."""
    return reach**2 / 2


def probabilities(weights: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return ``[n, K]`` of the classes that each row permits, under weights ``[d, K]``."""
    logits = rows.x @ weights
    return (logits if rows.forbidden is None else logits.masked_fill(rows.forbidden, -math.inf)).softmax(1)


def errors(weights: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return the derivatives of each row's loss in its logits, ``[n, K]``: probabilities minus the label."""
    p = probabilities(weights, rows)
    p[torch.arange(len(rows), device=p.device), rows.y] -= 1.0
    return p


def gradient(weights: torch.Tensor, rows: Rows, l2: float, tilt: torch.Tensor | None = None) -> torch.Tensor:
    """Return grad F at weights ``[d, K]``; with `tilt` b ``[d, K]``, of F + <b, W> / n."""
    g = rows.x.T @ errors(weights, rows) / len(rows) + l2 * weights
    return g if tilt is None else g + tilt / len(rows)


def hessian(weights: torch.Tensor, rows: Rows, l2: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what multiplies ``[d, K]`` by the Hessian of F at some weights."""
    p = probabilities(weights, rows)

    def product(v: torch.Tensor) -> torch.Tensor:
        z = rows.x @ v
        return rows.x.T @ (p * (z - (p * z).sum(1, keepdim=True))) / len(rows) + l2 * v

    return product
