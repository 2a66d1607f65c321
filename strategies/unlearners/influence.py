"""Influence unlearning: one Newton step that removes the forget set from the mean loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.weights.fisher import evaluating, gradient_of, loss_gradient
from strategies.ranges import log
from strategies.unlearners._retained import RetainedData, RetainUnlearner
from streams.config import Config as BaseConfig
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key

Product = Callable[[torch.Tensor], torch.Tensor]


class Config(BaseConfig):
    """Options of `influence` (influence functions; Koh and Liang 2017, and for unlearning Izzo et al. 2021)."""

    form: Literal["gauss-newton", "woodfisher", "released"] = "gauss-newton"
    """The inverse curvature. gauss-newton: conjugate gradients on the Gauss-Newton matrix of the retained data.
    woodfisher: the exact inverse of the empirical Fisher of `samples` retained samples (Singh and Alistarh 2020).
    released: the recursion of the code that published numbers come from (arXiv 2304.04934, 2310.12508). It keeps one
    vector where as many as samples are needed, and ends within a multiple of the first sample's gradient of the plain
    difference of gradients: a scaled gradient step. For reproduction, and not to be called influence."""
    alpha: float = Field(1.0, gt=0)
    """Factor on the step; 1 is the Newton step."""
    damping: float = Field(1e-2, gt=0)
    """Added to the curvature: the strength of an L2 penalty that training used, and enough to keep it positive."""
    iterations: int = Field(50, ge=1)
    """gauss-newton: at most that many conjugate-gradient iterations, each one pass over the retained data."""
    tolerance: float = Field(1e-4, gt=0)
    """gauss-newton: stop when the residual has fallen to that share."""
    samples: int = Field(1000, ge=1)
    """woodfisher, released: retained samples whose gradients are used, drawn by name."""
    batch_size: int = Field(256, ge=1)
    """Samples per pass."""
    retained: RetainedData = "full"
    """Use all live data, or what the learner's plugins keep."""


def removal_direction(forget: torch.Tensor, retained: torch.Tensor, num_forget: int, num_retained: int) -> torch.Tensor:
    """Return v = (1 / n) sum_f - (n_f / (n n_r)) sum_r: minus the retained gradient at a stationary point.

    Args:
        forget, retained: summed gradients ``[P]``.
        num_forget, num_retained: of how many samples.
    """
    n = num_forget + num_retained
    return forget / n - retained * (num_forget / (n * num_retained))


def conjugate_gradients(product: Product, v: torch.Tensor, iterations: int, tolerance: float) -> torch.Tensor:
    """Return x with A x = v, for a positive definite A given by its products (Hestenes and Stiefel 1952).

    Args:
        product: maps ``[P]`` to A times it.
        v: ``[P]``.
        iterations: products at most.
        tolerance: enough is a residual of that share of ||v||.
    """
    x, residual = torch.zeros_like(v), v.clone()
    direction = residual.clone()
    size = residual @ residual
    enough = tolerance**2 * float(size)
    for _ in range(iterations):
        if float(size) <= enough:
            break
        image = product(direction)
        step = size / (direction @ image)
        x += step * direction
        residual -= step * image
        before, size = size, residual @ residual
        direction = residual + (size / before) * direction
    return x


def gauss_newton_product(
    model: FlatModel, objective: Objective, data: Data, damping: float, batch_size: int
) -> Product:
    """Return v -> (mean_x J^T H J + damping) v, J the outputs' Jacobian and H the loss's Hessian in the outputs."""
    objective = objective.training_on(data)
    parameters = [p for p in model.network.parameters() if p.requires_grad]

    def product(v: torch.Tensor) -> torch.Tensor:
        total = damping * v
        for batch in objective.batches(data, batch_size):
            with sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention that can be differentiated twice
                outputs = objective.outputs(model, batch)
            # J v by two backward passes: u -> J^T u is linear, and its transpose is v -> J v.
            u = torch.zeros_like(outputs, requires_grad=True)
            pulled = torch.autograd.grad(outputs, parameters, u, create_graph=True, allow_unused=True)
            pairs = [(g, v[where]) for g, where in zip(pulled, model.slices.values(), strict=True) if g is not None]
            along = sum(((g.reshape(-1) @ w) for g, w in pairs), torch.zeros((), device=v.device))
            (pushed,) = torch.autograd.grad(along, u, retain_graph=True)
            z = outputs.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(objective.losses(z, batch).sum(), z, create_graph=True)
            finite = torch.isfinite(z)
            (curved,) = torch.autograd.grad((slope * pushed.detach().masked_fill(~finite, 0.0)).sum(), z)
            total += gradient_of(model, (outputs.masked_fill(~finite, 0.0) * curved).sum()) / len(data)
        return total

    return product


def sample_gradients(model: FlatModel, objective: Objective, data: Data) -> torch.Tensor:
    """Return the gradient of every sample's loss, ``[n, P]``, by one backward pass each."""
    objective = objective.training_on(data)
    rows = []
    for batch in objective.batches(data, 1):
        rows.append(gradient_of(model, objective.losses(objective.outputs(model, batch), batch).sum()))
    return torch.stack(rows)


def woodfisher_inverse(gradients: torch.Tensor, v: torch.Tensor, damping: float) -> torch.Tensor:
    """Return (damping I + G^T G / N)^-1 v for gradients ``G [N, P]``, by the matrix inversion lemma.

    It is what N rank-one updates F_i^-1 = F_{i-1}^-1 - ... of WoodFisher come to, solved at once.
    """
    n = len(gradients)
    small = gradients @ gradients.t() + n * damping * torch.eye(n, dtype=v.dtype, device=v.device)
    return (v - gradients.t() @ torch.linalg.solve(small, gradients @ v)) / damping


def released_recursion(gradients: torch.Tensor, v: torch.Tensor, n: float = 1000.0) -> torch.Tensor:
    """Return what published code computes in place of the inverse: one vector o, which starts as the first gradient.

    Args:
        gradients: of single samples, ``[m, P]``.
        v: what the inverse should be applied to, ``[P]``.
        n: the code's constant, in the place of the number of samples.
    """
    k, o = v.clone(), gradients[0].clone()
    for gradient in gradients[1:]:
        overlap = o @ gradient
        k -= (k @ gradient) / (n + overlap) * o
        o -= overlap / (n + overlap) * o
    return k


@final
class Influence(RetainUnlearner):
    """theta + alpha H^-1 v with v the direction that takes the forget set out of the mean gradient.

    It needs retained data: the curvature is taken on it.
    """

    test_options = {"iterations": 3}
    config: Config
    ranges = {"alpha": log(0.1, 100.0)}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        forget_set = door.forget_set()
        v = removal_direction(
            loss_gradient(model, objective, forget_set, config.batch_size),
            loss_gradient(model, objective, retained, config.batch_size),
            len(forget_set),
            len(retained),
        )
        passed = len(forget_set) + len(retained)
        with evaluating(model):
            if config.form == "gauss-newton":
                calls = [0]
                inner = gauss_newton_product(model, objective, retained, config.damping, config.batch_size)

                def product(x: torch.Tensor) -> torch.Tensor:
                    calls[0] += 1
                    return inner(x)

                step = conjugate_gradients(product, v, config.iterations, config.tolerance)
                passed += 3 * calls[0] * len(retained)
            else:
                sample = retained.part(np.sort((key / "samples").order(retained.ids)[: config.samples]))
                gradients = sample_gradients(model, objective, sample)
                passed += len(sample)
                if config.form == "woodfisher":
                    step = woodfisher_inverse(gradients, v, config.damping)
                else:
                    step = released_recursion(gradients, v)
        model.parameters.add_(step, alpha=config.alpha)
        return Outcome(forward=passed, backward=passed)
