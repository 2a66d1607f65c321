"""Frozen features of bounded length, and a linear head over them: weights ``[d, K]`` with the bias as the last row."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Literal, final

import torch
from torch import nn

from strategies.objectives._base import ClassObjective
from strategies.parts.convex.softmax import Rows
from strategies.parts.model import FlatModel, Network
from streams.data import Batch, Data
from streams.errors import ConfigError

AT_ONCE = 1024
"""Rows per pass of the body."""
Clip = Literal["unit"] | float


@final
class Bounded(nn.Module):
    """Features that are no longer than a public length: cut to it, or all of length one."""

    def __init__(self, clip: Clip) -> None:
        """Take ``unit``, or the length that longer ones are cut to."""
        super().__init__()
        self.clip = clip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, d]``; each row depends on itself alone."""
        norm = x.norm(dim=1, keepdim=True)
        if self.clip == "unit":
            return x / norm.where(norm > 0, 1.0)
        return x * (self.clip / norm.where(norm > 0, 1.0)).clamp(max=1.0)


@final
class FrozenHead:
    """A model whose body stays what it was at first, and whose head is set from outside."""

    def __init__(self, model: FlatModel, clip: Clip) -> None:
        """Take the model over.

        Raises:
            ConfigError: its head is not linear.
        """
        network = model.network
        if not isinstance(network.head, nn.Linear):
            raise ConfigError(
                f"a convex head needs a model with a linear head, and this one ends in {type(network.head).__name__}; "
                f"choose another model, such as mlp."
            )
        body = nn.Sequential(network.body, Bounded(clip))
        self.model = FlatModel(Network(body, network.head))
        self.model.train(False)
        self.linear = network.head
        self.has_bias = network.head.bias is not None
        self.shape = (network.head.in_features + self.has_bias, network.head.out_features)
        self.reach = math.hypot(1.0 if clip == "unit" else float(clip), float(self.has_bias))
        # In float64 a row depends on who is passed with it by rounding alone, which a residual's slack covers.
        self._precise = copy.deepcopy(body).double().eval()

    def zeros(self) -> torch.Tensor:
        """Return the weights ``[d, K]`` to start from, float64."""
        return torch.zeros(self.shape, dtype=torch.float64, device=self.model.parameters.device)

    def set(self, weights: torch.Tensor) -> None:
        """Let the model predict with some weights ``[d, K]``."""
        with torch.no_grad():
            d = self.linear.in_features
            self.linear.weight.copy_(weights[:d].T)
            if self.has_bias:
                self.linear.bias.copy_(weights[d])

    @torch.no_grad()
    def rows(self, data: Data, objective: ClassObjective) -> tuple[Rows, float]:
        """Return samples as features ``[n, d]``, and the share of them that `clip` has changed (1 under ``unit``)."""
        parts = [self._part(batch, objective) for batch in data.batches(AT_ONCE)]
        if not parts:
            x = torch.zeros((0, self.shape[0]), dtype=torch.float64, device=self.model.parameters.device)
            return Rows(x, torch.zeros(0, dtype=torch.int64, device=x.device)), 0.0
        forbidden = None
        if objective.masks:
            forbidden = torch.cat([part[2] for part in parts])
        x, y, clipped = (torch.cat([part[i] for part in parts]) for i in (0, 1, 3))
        return Rows(x, y, forbidden), float(clipped.double().mean())

    def _part(
        self, batch: Batch, objective: ClassObjective
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = replace(batch, x=batch.x.double())
        inner, bounded = self._precise[0], self._precise[1]
        raw = inner(*batch.inputs)
        x = bounded(raw)
        clipped = x.norm(dim=1) < raw.norm(dim=1) if bounded.clip != "unit" else torch.ones(len(x), dtype=torch.bool)
        if self.has_bias:
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        zeros = torch.zeros((len(x), self.shape[1]), device=x.device)
        return x, batch.y, objective.mask(zeros, batch) < 0, clipped.to(x.device)
