"""Newton's method with conjugate gradients, and backtracking on the norm of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from strategies.parts.convex.softmax import Rows, gradient, hessian
from streams.errors import LifelongError

PRECISION = 1e-8
"""How far conjugate gradients reduce a Newton step's residual; what is left of the gradient is measured anyway."""
HALVINGS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """Where Newton's method has got to.

    Attributes:
        weights: ``[d, K]``.
        norm: of the gradient there, measured after the last step.
        steps: that were taken.
        passes: forward and backward passes over all rows: a gradient or a product with the Hessian is one.
    """

    weights: torch.Tensor
    norm: float
    steps: int = 0
    passes: int = 0


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, precision: float = PRECISION
) -> tuple[torch.Tensor, int]:
    """Return x with ||A x - b|| <= precision ||b||, A symmetric and positive definite, and the products that took."""
    x, r = torch.zeros_like(b), b.clone()
    p, size = r.clone(), float(r.square().sum())
    enough, products = precision**2 * size, 0
    while size > enough and products < 10 * b.numel():
        a = product(p)
        along = size / float((p * a).sum())
        x.add_(p, alpha=along)
        r.sub_(a, alpha=along)
        size, before = float(r.square().sum()), size
        p.mul_(size / before).add_(r)
        products += 1
    return x, products


def at(weights: torch.Tensor, rows: Rows, l2: float, tilt: torch.Tensor | None = None) -> Solved:
    """Return where some weights stand."""
    return Solved(weights, float(gradient(weights, rows, l2, tilt).norm()), 0, 1)


def step(here: Solved, rows: Rows, l2: float, tilt: torch.Tensor | None = None) -> Solved:
    """Take a Newton step over all rows, halved until the gradient's norm falls.

    Raises:
        LifelongError: it does not fall: the rounding of float64 is reached.
    """
    g = gradient(here.weights, rows, l2, tilt)
    direction, products = conjugate_gradient(hessian(here.weights, rows, l2), g)
    passes = here.passes + 1 + products
    length = 1.0
    for _ in range(HALVINGS):
        weights = here.weights - length * direction
        norm = float(gradient(weights, rows, l2, tilt).norm())
        passes += 1
        if norm < here.norm:
            return Solved(weights, norm, here.steps + 1, passes)
        length /= 2
    raise LifelongError(
        f"Newton's method stands at a mean gradient of {here.norm:.2g} and gets no further in float64. Set a larger "
        f"`tol`, or a larger `l2`."
    )


def solve(here: Solved, rows: Rows, l2: float, tol: float, tilt: torch.Tensor | None = None) -> Solved:
    """Take Newton steps until the norm of the mean gradient is at most `tol`.

    Raises:
        LifelongError: rounding comes first.
    """
    while here.norm > tol:
        here = step(here, rows, l2, tilt)
    return here
