"""Least squares from integer sums: adding and subtracting rows in any order gives the same bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from strategies.parts.convex.softmax import Rows

AT_ONCE = 4096
"""Rows whose products are summed in float64: 2^12 products below 2^31 are integers below 2^53, hence exact."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over rows of quantised features q, with their labels one-hot.

    Attributes:
        gram: int64 ``[d, d]``, sum of q q^T.
        products: int64 ``[d, K]``, sum of q onehot(y)^T.
        count: rows.
    """

    gram: torch.Tensor
    products: torch.Tensor
    count: int

    @classmethod
    def nothing(cls, width: int, classes: int, device: torch.device) -> Moments:
        """Return the sums over no row."""
        gram = torch.zeros((width, width), dtype=torch.int64, device=device)
        return cls(gram, torch.zeros((width, classes), dtype=torch.int64, device=device), 0)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.products + other.products, self.count + other.count)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.gram - other.gram, self.products - other.products, self.count - other.count)


def moments(rows: Rows, scale: float, classes: int) -> Moments:
    """Return the sums over some rows.

    Args:
        rows: features of which none is larger than 1 / scale times 2^15; less than 2^33 of them in all.
        scale: integers per unit, a public number.
        classes: K.
    """
    total = Moments.nothing(rows.x.shape[1], classes, rows.x.device)
    for start in range(0, len(rows), AT_ONCE):
        x, y = rows.x[start : start + AT_ONCE], rows.y[start : start + AT_ONCE]
        q = (x * scale).round()
        labels = torch.nn.functional.one_hot(y, classes).to(q)
        total = total + Moments((q.T @ q).to(torch.int64), (q.T @ labels).to(torch.int64), len(y))
    return total


def solve(sums: Moments, scale: float, l2: float) -> torch.Tensor:
    """Return the minimiser ``[d, K]`` of the mean of 1/2 ||W^T x - onehot(y)||^2 + l2/2 ||W||^2; zero for no row."""
    if not sums.count:
        return torch.zeros(sums.products.shape, dtype=torch.float64, device=sums.gram.device)
    gram = sums.gram.double() / scale**2
    gram.diagonal().add_(l2 * sums.count)
    return torch.cholesky_solve(sums.products.double() / scale, torch.linalg.cholesky(gram))
