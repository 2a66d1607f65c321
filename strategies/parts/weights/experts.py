"""Mixtures of experts in the blocks of a transformer: their routers, and where the weights of an expert lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import blocks_of
from streams.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixture of one block.

    Attributes:
        block: its number, from the bottom up.
        path: of the module that holds router and experts.
        gate: the router; its logits are ``[B T, E]``.
        experts: how many there are, E.
    """

    block: int
    path: str
    gate: nn.Module
    experts: int


def mixtures_of(model: FlatModel, method: str) -> list[Mixture]:
    """Return the mixtures of a model's blocks, from the bottom up.

    Args:
        model: of the form that transformers gives Mixtral: a ``gate`` beside ``experts`` whose weights are stacked.
        method: who asks, for an error (``unlearner: 'seuf'``).

    Raises:
        ConfigError: there are none.
    """
    found, paths = [], {module: name for name, module in model.network.named_modules()}
    for number, block in enumerate(blocks_of(model)):
        for module in block.modules():
            gate, experts = getattr(module, "gate", None), getattr(module, "experts", None)
            stacked = [] if experts is None else [p for _, p in experts.named_parameters() if p.ndim == 3]
            if isinstance(gate, nn.Module) and stacked:
                found.append(Mixture(number, paths[module], gate, len(stacked[0])))
    if not found:
        raise ConfigError(
            f"{method} unlearns in the experts of a mixture, and this model has none that it knows. Use one such as "
            f"tiny-mixtral."
        )
    return found


def expert_mask(model: FlatModel, mixture: Mixture, experts: list[int], whole_router: bool) -> torch.Tensor:
    """Return which weights belong to some experts of a mixture and to its router, bool ``[P]``.

    Args:
        model: that has the mixture.
        mixture: one of its.
        experts: their numbers.
        whole_router: whether all rows of the router count, or those of these experts alone.
    """
    mask = torch.zeros_like(model.parameters, dtype=torch.bool)
    for name, parameter in model.network.named_parameters():
        if not name.startswith(f"{mixture.path}.") or name not in model.slices:
            continue
        part = mask[model.slices[name]].view(parameter.shape)
        if name.startswith(f"{mixture.path}.experts."):
            part[experts] = True
        elif name.startswith(f"{mixture.path}.gate.") and whole_router:
            part[:] = True
        elif name.startswith(f"{mixture.path}.gate."):
            part[experts] = True
    return mask


@contextmanager
def routed(mixture: Mixture) -> Iterator[dict[str, torch.Tensor]]:
    """Keep what a router said last, as ``logits [B T, E]`` before any choice among them, while this is open."""
    heard: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        heard["logits"] = output[0] if isinstance(output, tuple) else output

    handle = mixture.gate.register_forward_hook(keep)
    try:
        yield heard
    finally:
        handle.remove()
