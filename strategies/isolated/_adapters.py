"""Low-rank adapters on a frozen network, in blocks of layers that can be trained and switched off one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import final

import torch
from torch import nn

from strategies.parts.model import FlatModel, Network
from streams.errors import ConfigError
from streams.randomness import Key

_NUMBERED = re.compile(r"(?:^|_)\d+$")
_QUERY_VALUE = frozenset({"query", "value", "q_proj", "v_proj", "q", "v"})


@final
class LowRank(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices (LoRA; Hu et al. 2022, arXiv 2106.09685)."""

    def __init__(self, inner: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        """Start switched off, adding nothing."""
        super().__init__()
        self.inner = inner
        like = inner.weight
        self.down = nn.Parameter(torch.zeros(rank, inner.in_features, dtype=like.dtype, device=like.device))
        self.up = nn.Parameter(torch.zeros(inner.out_features, rank, dtype=like.dtype, device=like.device))
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        self.on = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + scale up down x."""
        y: torch.Tensor = self.inner(x)
        return y + self.scale * (self.dropout(x) @ self.down.T @ self.up.T) if self.on else y

    @torch.no_grad()
    def renew(self, generator: torch.Generator) -> None:
        """Draw a fresh adapter: the lower matrix uniform as in a linear layer, the upper one zero."""
        bound = 1 / math.sqrt(self.down.shape[1])
        self.down.copy_((torch.rand(self.down.shape, generator=generator) * 2 - 1) * bound)
        self.up.zero_()


@final
class _Still(nn.Module):
    """A body of which nothing but the adapters' dropout ever trains: batch norms and other buffers stand still."""

    def __init__(self, inner: nn.Module, adapters: list[LowRank]) -> None:
        super().__init__()
        self.inner = inner
        self._adapters = adapters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)

    def train(self, mode: bool = True) -> _Still:
        self.training = mode
        self.inner.train(False)
        for adapter in self._adapters:
            adapter.dropout.train(mode)
        return self


@final
class AdapterHost:
    """One frozen network with adapters in every layer, into which any stack of trained blocks can be put.

    Block j adapts the j-th group of layers **from the top**, so that blocks switched off below leave what upper blocks
    were trained on as it was. A trained block is one vector: its adapters, then the head as it was after that stage.
    """

    def __init__(
        self,
        make_model: Callable[[], FlatModel],
        blocks: int,
        rank: int,
        alpha: float,
        dropout: float,
        rank_stabilised: bool,
    ) -> None:
        """Freeze a fresh model and wrap its layers.

        Args:
            make_model: returns the backbone with its head; the head's initial weights are where every stack starts.
            blocks: number of blocks; each gets floor(layers / blocks) layers.
            rank, alpha: of the adapters; they are scaled by alpha / sqrt(rank), or alpha / rank.
            dropout: of the adapters' input while training.
            rank_stabilised: which scale (arXiv 2312.03732).

        `model` is what is mounted, for an objective to evaluate.

        Raises:
            ConfigError: the body has too few layers with linear maps.
        """
        network = make_model().network
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        layers = layers_of(network.body)
        width = len(layers) // blocks
        if not width:
            raise ConfigError(
                f"isolated: {blocks} slices need as many layers, and the body of the model has {len(layers)} with "
                f"linear maps. Use fewer slices or a deeper model (mlp with more hidden layers, or vit-tiny)."
            )
        scale = alpha / (math.sqrt(rank) if rank_stabilised else rank)
        self.blocks: list[list[LowRank]] = []
        for j in range(blocks):
            own = layers[len(layers) - (j + 1) * width : len(layers) - j * width]
            adapters = []
            for path in (p for layer in own for p in layer):
                linear = network.body.get_submodule(path)
                assert isinstance(linear, nn.Linear)
                adapters.append(LowRank(linear, rank, scale, dropout))
                _replace(network.body, path, adapters[-1])
            self.blocks.append(adapters)
        self._network = Network(
            _Still(network.body, [a for b in self.blocks for a in b]), network.head, network.passing
        )
        self._head = list(network.head.parameters())
        self._initial = [p.detach().clone() for p in self._head]
        self.head_size = sum(p.numel() for p in self._head)
        for parameter in self._head:
            parameter.requires_grad_(True)
        self.model = FlatModel(self._network)

    @torch.no_grad()
    def mount(self, stack: list[torch.Tensor]) -> None:
        """Switch on the blocks of `stack`, from the top, with the head of the last; switch off all others."""
        for j, block in enumerate(self.blocks):
            for adapter in block:
                adapter.on = j < len(stack)
            if j < len(stack):
                _fill([p for a in block for p in (a.down, a.up)], stack[j])
        if stack:
            _fill(self._head, stack[-1][-self.head_size :])
        else:
            for parameter, value in zip(self._head, self._initial, strict=True):
                parameter.copy_(value)

    def next_block(self, stack: list[torch.Tensor], key: Key) -> FlatModel:
        """Mount `stack` with a fresh block on top of it, and return a model that trains that block and the head."""
        self.mount(stack)
        generator = key.torch()
        for parameter in self._network.parameters():
            parameter.requires_grad_(False)
        for adapter in self.blocks[len(stack)]:
            adapter.renew(generator)
            adapter.on = True
            adapter.down.requires_grad_(True)
            adapter.up.requires_grad_(True)
        for parameter in self._head:
            parameter.requires_grad_(True)
        return FlatModel(self._network)

    def trained(self, block: int) -> torch.Tensor:
        """Return block number `block` and the head as they are, as one vector."""
        tensors = [p for a in self.blocks[block] for p in (a.down, a.up)] + self._head
        return torch.cat([t.detach().reshape(-1) for t in tensors])


def layers_of(body: nn.Module) -> list[list[str]]:
    """Return the layers of a body from bottom to top, each as the paths of the linear maps in it that are adapted.

    A layer is what shares the path down to its first numbered component: ``layers.3`` of a transformer, or a single
    linear map of an MLP. Whole components are compared, so that layer 1 is not layer 10. Where layers have query and
    value projections those are adapted, otherwise all linear maps.

    >>> layers_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    [['1'], ['3']]
    """
    paths = [name for name, module in body.named_modules() if type(module) is nn.Linear]
    chosen = [p for p in paths if p.split(".")[-1] in _QUERY_VALUE] or paths
    layers: dict[tuple[str, ...], list[str]] = {}
    for path in chosen:
        parts = path.split(".")
        numbered = next((i for i, part in enumerate(parts) if _NUMBERED.search(part)), len(parts) - 1)
        layers.setdefault(tuple(parts[: numbered + 1]), []).append(path)
    return list(layers.values())


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _fill(parameters: list[nn.Parameter], values: torch.Tensor) -> None:
    start = 0
    for parameter in parameters:
        size = parameter.numel()
        parameter.copy_(values[start : start + size].view_as(parameter))
        start += size
