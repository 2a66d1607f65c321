"""The blocks of a transformer: where they are, and what they return."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from strategies.parts.model import FlatModel
from streams.errors import ConfigError


def stacks(body: nn.Module) -> dict[str, nn.ModuleList]:
    """Return every list of blocks in a body by its path, outer ones before those inside of them.

    Transformers keep their blocks in a `ModuleList`, from the bottom up. Where there are several (a language model and
    its vision tower), the first one is the model's own.

    >>> list(stacks(nn.ModuleDict({"embed": nn.Linear(2, 2), "layers": nn.ModuleList([nn.Linear(2, 2)])})))
    ['layers']
    """
    return {path: m for path, m in body.named_modules() if isinstance(m, nn.ModuleList)}


def blocks_of(model: FlatModel) -> nn.ModuleList:
    """Return the blocks of the body, from the bottom up.

    Raises:
        ConfigError: the body has none.
    """
    blocks = next(iter(stacks(model.network.body).values()), None)
    if not blocks:
        raise ConfigError("model: it has no transformer blocks; use a language model such as tiny-llama.")
    return blocks


def check_block(blocks: nn.ModuleList, block: int, key: str) -> None:
    """Refuse a block that is not there.

    Args:
        blocks: of the model.
        block: a number, from 0.
        key: the configuration key to name.

    Raises:
        ConfigError: the number is too high.
    """
    if block >= len(blocks):
        raise ConfigError(f"{key}: {block} is too high; the model has blocks 0 to {len(blocks) - 1}.")


@final
class Listener:
    """Keeps what a block returned last."""

    def __init__(self, block: nn.Module) -> None:
        """Listen from now on."""
        self.state = torch.zeros(0)
        self._handle = block.register_forward_hook(self._keep)

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.state = output[0] if isinstance(output, tuple) else output
