"""Low-rank changes of a model's weights: the matrices they are made to, steps of their factors, and shared subspaces.

A matrix W becomes W + s B A with A ``[r, in]`` and B ``[out, r]`` (LoRA; Hu et al. 2021, arXiv 2106.09685). The rows of
A span the inputs that the change reads, so that two changes whose A have orthogonal rows read different inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn
from typing_extensions import override

from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import Optimizer, OptimizerConfig, make_optimizer
from strategies.parts.training.rates import Factor, Scheduled
from strategies.parts.weights.blocks import stacks
from streams.errors import ConfigError
from streams.randomness import Key

_TINY = 1e-12
"""Norms of groups are divided by, and are not less than this."""
Factors = tuple[torch.Tensor, torch.Tensor]
"""A ``[r, in]`` and B ``[out, r]`` of one matrix."""


def linear_maps(body: nn.Module) -> dict[str, nn.Module]:
    """Return the linear maps of a body by path: of its blocks, if it is made of blocks, otherwise all of them.

    GPT-2's, which keep their weights transposed, count. Adapters that are there already do not.

    >>> list(linear_maps(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))))
    ['1', '3']
    """
    inside = next((f"{path}." for path in stacks(body)), "")
    return {
        name: module
        for name, module in body.named_modules()
        if (isinstance(module, nn.Linear) or is_transposed(module)) and name.startswith(inside) and "lora_" not in name
    }


def is_transposed(module: nn.Module) -> bool:
    """Return whether a linear map keeps its weight as ``[in, out]`` (transformers' Conv1D)."""
    return type(module).__name__ == "Conv1D"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where the weight of a linear map lies in a model's parameter vector.

    Attributes:
        where: its part of the vector.
        outputs, inputs: its shape as a map.
        transposed: whether it lies there as ``[in, out]``.
    """

    where: slice
    outputs: int
    inputs: int
    transposed: bool

    def read(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the matrix ``[out, in]``, a view of the vector."""
        part = vector[self.where]
        return part.view(self.inputs, self.outputs).T if self.transposed else part.view(self.outputs, self.inputs)


def matrices_by_path(model: FlatModel) -> dict[str, Matrix]:
    """Return the trained matrices of the body that low-rank changes are made to, by the path of their map in it.

    Raises:
        ConfigError: there is none.
    """
    matrices = {}
    for path, module in linear_maps(model.network.body).items():
        where = model.slices.get(f"body.{path}.weight")
        weight = module.weight
        if where is not None and isinstance(weight, torch.Tensor):
            rows, columns = weight.shape
            outputs, inputs = (columns, rows) if is_transposed(module) else (rows, columns)
            matrices[path] = Matrix(where, outputs, inputs, is_transposed(module))
    if not matrices:
        raise ConfigError("model: it has no linear map that is trained, so that nothing can be changed in low rank.")
    return matrices


def matrices_of(model: FlatModel) -> list[Matrix]:
    """Return the same matrices in their order.

    Raises:
        ConfigError: there is none.
    """
    return list(matrices_by_path(model).values())


def check_rank(rank: int, matrices: Sequence[Matrix], key: str) -> None:
    """Refuse a rank that some matrix cannot have.

    Raises:
        ConfigError: says which rank is the highest.
    """
    highest = min(min(m.outputs, m.inputs) for m in matrices)
    if rank > highest:
        raise ConfigError(f"{key}: {rank} is too high for this model; its smallest matrix has rank {highest}.")


def fresh_factors(matrices: Sequence[Matrix], rank: int, key: Key, like: torch.Tensor) -> list[Factors]:
    """Return factors that change nothing yet: A uniform as in a linear layer, B zero (the usual start of LoRA)."""
    generator = key.torch()
    factors = []
    for m in matrices:
        a = (torch.rand(rank, m.inputs, generator=generator) * 2 - 1) / math.sqrt(m.inputs)
        factors.append((a.to(like), like.new_zeros(m.outputs, rank)))
    return factors


def overlap(a: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return ||A_i A^T||_F^2 of two ``[r, in]`` matrices: 0 where their rows span orthogonal subspaces.

    It does not change when the rows are rotated among each other. The product is r x r; the in x in product A_i^T A is
    not zero even between orthogonal subspaces, and measures nothing.
    """
    return (other @ a.T).square().sum()


def overlap_ratio(a: torch.Tensor, other: torch.Tensor) -> float:
    """Return ||A_i A^T||_F / (||A_i||_F ||A||_F): about 1 / sqrt(r) for the same balanced matrix, not 1."""
    length = float(a.norm() * other.norm())
    return math.sqrt(float(overlap(a, other))) / length if length else 0.0


@final
class LowRankSteps(Optimizer):
    """Trains factors in place of weights: W is written anew as W_0 + s B A after every step.

    The gradient of the weights is turned into that of the factors, so that any hook of the loop works unchanged, and
    whoever reads the weights reads plain ones. The function at the start is that of the weights as they are: W_0 is
    what is left of them without s B A. All other weights stay, but those at `free` positions, which are trained as
    they are.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        parameters: torch.Tensor,
        matrices: Sequence[Matrix],
        factors: Sequence[Factors],
        scale: float,
        free: torch.Tensor | None = None,
        earlier: Sequence[Sequence[torch.Tensor]] = (),
        strength: float = 0.0,
        absolute: bool = False,
        groups: Sequence[Sequence[int]] = (),
        sparsity: float = 0.0,
        rate: Factor | None = None,
    ) -> None:
        """Start with zero moments.

        Args:
            config: how factors (and free weights) are stepped; weight decay is theirs.
            parameters: the weights ``[P]``.
            matrices: which of them are changed.
            factors: A and B of each at the start.
            scale: s.
            free: int64 positions of weights that are trained as they are.
            earlier: for each earlier change, its A of every matrix, to which the new A should be orthogonal.
            strength: lambda of lambda sum_i ||A_i A^T||_F^2.
            absolute: take the sum of absolute values in place of squares.
            groups: numbers of the matrices whose factors form a group each.
            sparsity: alpha of alpha sum over groups of the norm of all its factors together (group lasso).
            rate: what the learning rate is multiplied by, step by step.
        """
        self._matrices, self._scale = matrices, scale
        self._earlier, self._strength, self._absolute = earlier, strength, absolute
        self._groups, self._sparsity = groups, sparsity
        self._free = torch.zeros(0, dtype=torch.long, device=parameters.device) if free is None else free
        parts = [t.reshape(-1) for pair in factors for t in pair]
        self._vector = torch.cat([*parts, parameters[self._free]]).clone()
        self._shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in factors]
        self._base = [m.read(parameters) - scale * (b @ a) for m, (a, b) in zip(matrices, factors, strict=True)]
        inner = make_optimizer(config, self._vector)
        self._inner: Optimizer = inner if rate is None else Scheduled(inner, rate)

    def factors(self, vector: torch.Tensor | None = None) -> list[Factors]:
        """Return A and B of every matrix, views of what is trained (or of a vector laid out like it)."""
        vector = self._vector if vector is None else vector
        pairs, start = [], 0
        for shape_a, shape_b in self._shapes:
            middle = start + shape_a[0] * shape_a[1]
            end = middle + shape_b[0] * shape_b[1]
            pairs.append((vector[start:middle].view(shape_a), vector[middle:end].view(shape_b)))
            start = end
        return pairs

    @torch.no_grad()
    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        slopes = torch.zeros_like(self._vector)
        factors = self.factors()
        for i, (m, (a, b), (to_a, to_b)) in enumerate(zip(self._matrices, factors, self.factors(slopes), strict=True)):
            slope = m.read(gradient)
            to_a.copy_(self._scale * (b.T @ slope))
            to_b.copy_(self._scale * (slope @ a.T))
            for other in self._earlier:
                product = a @ other[i].T
                to_a.add_((product.sign() if self._absolute else 2 * product) @ other[i], alpha=self._strength)
        if self._sparsity:
            pulls = self.factors(slopes)
            for group, norm in zip(self._groups, self.group_norms(), strict=True):
                for value, pull in ((v, p) for i in group for v, p in zip(factors[i], pulls[i], strict=True)):
                    pull.add_(value, alpha=self._sparsity / max(norm, _TINY))
        slopes[len(slopes) - len(self._free) :] = gradient[self._free]
        self._inner.step(self._vector, slopes)
        for m, base, (a, b) in zip(self._matrices, self._base, self.factors(), strict=True):
            m.read(parameters).copy_(base + self._scale * (b @ a))
        parameters[self._free] = self._vector[len(slopes) - len(self._free) :]

    def group_norms(self) -> list[float]:
        """Return the norm of all factors of every group."""
        factors = self.factors()
        return [math.sqrt(sum(float(t.square().sum()) for i in group for t in factors[i])) for group in self._groups]

    def penalty(self) -> float:
        """Return the sum that is kept small, without its strength."""
        products = [a @ o[i].T for i, (a, _) in enumerate(self.factors()) for o in self._earlier]
        return float(sum((p.abs() if self._absolute else p.square()).sum() for p in products))

    @override
    def state_dict(self) -> dict[str, object]:
        return {
            "factors": self._vector.clone(),
            "base": [b.clone() for b in self._base],
            "moments": self._inner.state_dict(),
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._vector.copy_(state["factors"])
        self._base = [b.clone() for b in state["base"]]
        self._inner.load_state_dict(state["moments"])
