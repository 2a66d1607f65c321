"""Low-rank adapters that act on each row of a batch as strongly as a gate of that row says, beside frozen weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import final

import torch
from torch import nn

from strategies.parts.lowrank.changes import Factors, fresh_factors, is_transposed, linear_maps
from strategies.parts.lowrank.changes import Matrix as Place
from strategies.parts.model import FlatModel
from strategies.parts.training.ragged import rows_together
from streams.errors import ConfigError
from streams.randomness import Key

# Gates [B, N] of the pass that is under way: a variable of the context, so that two passes at once cannot mix.
_gates: ContextVar[torch.Tensor | None] = ContextVar("gates", default=None)


@final
class Gated(nn.Module):
    """A linear map with one adapter that can be trained, and any number of frozen ones that are gated."""

    def __init__(self, inner: nn.Module, inputs: int, outputs: int, rank: int, scale: float, dropout: float) -> None:
        """Start with nothing beside the map itself."""
        super().__init__()
        self.inner = inner
        like = inner.weight
        assert isinstance(like, torch.Tensor)
        self.down = nn.Parameter(like.new_zeros(rank, inputs), requires_grad=False)
        self.up = nn.Parameter(like.new_zeros(outputs, rank), requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        self.trains = False
        self.frozen: Factors | None = None  # of all gated adapters side by side: A [N r, in] and B [out, N r]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + s B A x while an adapter is trained, else W x + sum_i w_i s B_i A_i x."""
        y: torch.Tensor = self.inner(x)
        if self.trains:
            return y + self.scale * (self.dropout(x) @ self.down.T @ self.up.T)
        gates = _gates.get()
        if gates is None or self.frozen is None:
            return y
        down, up = self.frozen
        w = self.scale * gates.to(y.dtype).repeat_interleave(len(down) // gates.shape[1], 1)
        w = w.repeat_interleave(len(x) // len(gates), 0).view(len(x), *[1] * (x.dim() - 2), -1)
        return y + (w * (x @ down.T)) @ up.T


@final
class GatedHost:
    """A model whose linear maps have adapters. Its own weights keep their place in the parameter vector."""

    def __init__(
        self,
        model: FlatModel,
        rank: int,
        alpha: float,
        dropout: float,
        only: frozenset[str] | None = None,
        key: str = "isolated.rank",
    ) -> None:
        """Wrap the linear maps of the body.

        Args:
            model: changed in place: its maps are wrapped; what it computes stays.
            rank, alpha: the adapters are scaled by alpha / rank.
            dropout: of their input while one is trained.
            only: names of the maps that get one, where the body has any of them; None is all.
            key: the configuration key of the rank, for an error.

        Raises:
            ConfigError: there is no map, or the rank is too high.
        """
        self.model = model
        body = model.network.body
        maps = linear_maps(body)
        chosen = {n: m for n, m in maps.items() if only is None or n.rpartition(".")[2] in only} or maps
        if not chosen:
            raise ConfigError("model: its body has no linear map that could have an adapter.")
        self._sites: list[Gated] = []
        self._places: list[Place] = []
        for path, inner in chosen.items():
            weight = inner.weight
            assert isinstance(weight, torch.Tensor)
            turned = is_transposed(inner)
            outputs, inputs = (weight.shape[1], weight.shape[0]) if turned else (weight.shape[0], weight.shape[1])
            if rank > min(outputs, inputs):
                raise ConfigError(f"{key}: {rank} is too high for this model; use at most {min(outputs, inputs)}.")
            site = Gated(inner, inputs, outputs, rank, alpha / rank, dropout)
            parent, _, name = path.rpartition(".")
            setattr(body.get_submodule(parent), name, site)
            self._sites.append(site)
            self._places.append(Place(slice(0), outputs, inputs, turned))
        self._rank = rank
        self._own = [p for p in model.network.parameters() if p.requires_grad]

    def fresh(self, key: Key) -> torch.Tensor:
        """Return an adapter that changes nothing yet, as one vector."""
        return _joined(fresh_factors(self._places, self._rank, key, self.model.parameters))

    def factors(self, adapter: torch.Tensor) -> list[Factors]:
        """Return A and B of every map, views of an adapter."""
        found, start = [], 0
        for place in self._places:
            middle = start + self._rank * place.inputs
            end = middle + self._rank * place.outputs
            down, up = adapter[start:middle].view(self._rank, -1), adapter[middle:end].view(-1, self._rank)
            found.append((down, up))
            start = end
        return found

    def trained_downs(self) -> list[torch.Tensor]:
        """Return the A of the adapter that is being trained, with gradient."""
        return [site.down for site in self._sites]

    @contextlib.contextmanager
    def training(self, start: torch.Tensor) -> Iterator[FlatModel]:
        """Lend a model of which the adapter alone is trained, from `start`; `trained` returns it at the end.

        The model's own weights are frozen while this is open, and all other adapters are off.
        """
        for parameter in self._own:
            parameter.requires_grad_(False)
        with torch.no_grad():
            for site, (down, up) in zip(self._sites, self.factors(start), strict=True):
                site.down.data, site.up.data = down.clone(), up.clone()
                site.down.requires_grad_(True)
                site.up.requires_grad_(True)
                site.trains = True
        try:
            yield FlatModel(self.model.network)
        finally:
            for site in self._sites:
                site.trains = False
                for parameter in (site.down, site.up):
                    parameter.requires_grad_(False)
                    parameter.grad = None
            for parameter in self._own:
                parameter.requires_grad_(True)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Pass through the model as it was without any adapter, in the middle of training one."""
        for site in self._sites:
            site.trains = False
        try:
            yield
        finally:
            for site in self._sites:
                site.trains = True

    def trained(self) -> torch.Tensor:
        """Return a copy of the adapter that was trained last."""
        return _joined([(site.down.detach(), site.up.detach()) for site in self._sites])

    @contextlib.contextmanager
    def gated(self, adapters: Sequence[torch.Tensor], gates: torch.Tensor) -> Iterator[None]:
        """Let adapters act on the passes inside; the rows of a batch pass together, since every row has gates.

        Args:
            adapters: N of them, at least one.
            gates: ``[B, N]``, how strongly each acts on each row; with 0 a row is what it is without, to the bit.
        """
        for site, factors in zip(self._sites, zip(*map(self.factors, adapters), strict=True), strict=True):
            site.frozen = torch.cat([down for down, _ in factors]), torch.cat([up for _, up in factors], 1)
        token = _gates.set(gates)
        try:
            with rows_together():
                yield
        finally:
            _gates.reset(token)
            for site in self._sites:
                site.frozen = None


def _joined(factors: Sequence[Factors]) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for pair in factors for t in pair])
