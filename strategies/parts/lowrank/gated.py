"""Low-rank adapters that act on each row of a batch as strongly as a gate of that row says, beside frozen weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import nn

from strategies.parts.lowrank.changes import Factors, fresh_factors, is_transposed, linear_maps
from strategies.parts.lowrank.changes import Matrix as Place
from strategies.parts.model import FlatModel
from streams.errors import ConfigError
from streams.randomness import Key


def gated_change(
    x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, gates: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return sum_i w_i s B_i A_i x, what N gated adapters side by side add to a linear map.

    Args:
        x: inputs of the map ``[B, ..., in]``, or ``[B T, in]`` where positions of a row follow each other.
        down, up: all A ``[N r, in]`` and all B ``[out, N r]``.
        gates: ``[B, N]``, how strongly each adapter acts on each row.
        scale: s.
    """
    w = scale * gates.to(x.dtype).repeat_interleave(len(down) // gates.shape[1], 1)
    w = w.repeat_interleave(len(x) // len(gates), 0).view(len(x), *[1] * (x.dim() - 2), -1)
    return (w * (x @ down.T)) @ up.T


class _Adapted(nn.Module):
    """A linear map with an adapter that is trained: W x + s B A x."""

    def __init__(self, inner: nn.Module, factors: Factors, scale: float, dropout: float) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = (nn.Parameter(t.clone()) for t in factors)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        self.rests = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y if self.rests else y + self.scale * (self.dropout(x) @ self.down.T @ self.up.T)


@final
class Lesson:
    """The training of one adapter: a model of which the adapter alone is trained."""

    def __init__(self, model: FlatModel, maps: Sequence[_Adapted]) -> None:
        """Lend `model`, whose trained parameters are the adapters of `maps`."""
        self.model = model
        self._maps = maps

    @property
    def downs(self) -> list[torch.Tensor]:
        """The A of every map, with gradient."""
        return [m.down for m in self._maps]

    def adapter(self) -> torch.Tensor:
        """Return a copy of the adapter as it is now."""
        return _joined([(m.down.detach(), m.up.detach()) for m in self._maps])

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Pass through the model as it is without any adapter, in the middle of training one."""
        for m in self._maps:
            m.rests = True
        try:
            yield
        finally:
            for m in self._maps:
                m.rests = False


@final
class Adapters:
    """The adapters that models of one architecture can have, each as one vector.

    Models are lent for a lesson or a pass, and are afterwards as they were. Their own weights keep their place in the
    parameter vector all the while.
    """

    def __init__(
        self,
        like: FlatModel,
        rank: int,
        alpha: float,
        dropout: float,
        only: frozenset[str] | None = None,
        key: str = "guard.rank",
    ) -> None:
        """Find the linear maps of the body.

        Args:
            like: a model of the architecture.
            rank, alpha: the adapters are scaled by alpha / rank.
            dropout: of their input while one is trained.
            only: names of the maps that get one, where the body has any of them; None is all.
            key: the configuration key of the rank, for an error.

        Raises:
            ConfigError: there is no map, or the rank is too high.
        """
        maps = linear_maps(like.network.body)
        chosen = {n: m for n, m in maps.items() if only is None or n.rpartition(".")[2] in only} or maps
        if not chosen:
            raise ConfigError("model: its body has no linear map that could have an adapter.")
        self._places: dict[str, Place] = {}
        for path, module in chosen.items():
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            turned = is_transposed(module)
            outputs, inputs = (weight.shape[1], weight.shape[0]) if turned else (weight.shape[0], weight.shape[1])
            if rank > min(outputs, inputs):
                raise ConfigError(f"{key}: {rank} is too high for this model; use at most {min(outputs, inputs)}.")
            self._places[path] = Place(slice(0), outputs, inputs, turned)
        self._rank, self._scale, self._dropout = rank, alpha / rank, dropout

    def fresh(self, key: Key, like: torch.Tensor) -> torch.Tensor:
        """Return an adapter that changes nothing yet, of the type of `like`."""
        return _joined(fresh_factors(list(self._places.values()), self._rank, key, like))

    def factors(self, adapter: torch.Tensor) -> list[Factors]:
        """Return A and B of every map, views of an adapter."""
        pairs, start = [], 0
        for place in self._places.values():
            middle = start + self._rank * place.inputs
            end = middle + self._rank * place.outputs
            down, up = adapter[start:middle].view(self._rank, -1), adapter[middle:end].view(-1, self._rank)
            pairs.append((down, up))
            start = end
        return pairs

    @contextlib.contextmanager
    def training(self, model: FlatModel, start: torch.Tensor) -> Iterator[Lesson]:
        """Lend a lesson from `start`; the model's own weights are frozen while it is open."""
        body = model.network.body
        frozen = [p for p in model.network.parameters() if p.requires_grad]
        inner = {path: body.get_submodule(path) for path in self._places}
        maps = [
            _Adapted(module, factors, self._scale, self._dropout)
            for module, factors in zip(inner.values(), self.factors(start), strict=True)
        ]
        for parameter in frozen:
            parameter.requires_grad_(False)
        _replace_modules(body, dict(zip(inner, maps, strict=True)))
        try:
            yield Lesson(FlatModel(model.network), maps)
        finally:
            _replace_modules(body, inner)
            for parameter in frozen:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def merge(self, model: FlatModel, adapter: torch.Tensor) -> None:
        """Add an adapter to the weights of a model, for good: W + s B A."""
        for (path, place), (down, up) in zip(self._places.items(), self.factors(adapter), strict=True):
            weight, change = model.network.body.get_submodule(path).weight, self._scale * (up @ down)
            assert isinstance(weight, torch.Tensor)
            weight.add_(change.T if place.transposed else change)

    @contextlib.contextmanager
    def gated(self, model: FlatModel, adapters: Sequence[torch.Tensor], gates: torch.Tensor) -> Iterator[None]:
        """Let adapters act on the passes of a model inside; the rows of a batch pass together, since each has gates.

        Args:
            model: whose weights may have changed since the adapters were trained.
            adapters: N of them, at least one.
            gates: ``[B, N]``, how strongly each acts on each row; with 0 a row is what it is without, to the bit.
        """
        handles = []
        try:
            for path, factors in zip(self._places, zip(*map(self.factors, adapters), strict=True), strict=True):
                down, up = torch.cat([a for a, _ in factors]), torch.cat([b for _, b in factors], 1)
                module = model.network.body.get_submodule(path)
                handles.append(module.register_forward_hook(_adapter_hook(down, up, gates, self._scale)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adapter_hook(
    down: torch.Tensor, up: torch.Tensor, gates: torch.Tensor, scale: float
) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], y: torch.Tensor) -> torch.Tensor:
        return y + gated_change(inputs[0], down, up, gates, scale)

    return hook


def _replace_modules(body: nn.Module, modules: dict[str, nn.Module] | dict[str, _Adapted]) -> None:
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(body.get_submodule(parent), name, module)


def _joined(factors: Sequence[Factors]) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for pair in factors for t in pair])
