"""What goes into layers and comes out of them in one forward pass, so that gradients per sample can be read off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

Call = tuple[nn.Module, torch.Tensor, torch.Tensor]
"""A module, its input and its output."""


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Collect (module, input, output) of every call of `modules`, in order."""
    calls: list[Call] = []

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls.append((module, args[0], output))

    handles = [m.register_forward_hook(keep) for m in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def has_patches(module: nn.Module) -> bool:
    """Whether it is a convolution whose patches `patches` can show."""
    plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    return plain and not isinstance(module.padding, str)


def patches(module: nn.Conv2d, a: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a convolution as a linear layer at many positions.

    Args:
        module: one for which `has_patches`.
        a: inputs ``[B, C, H, W]``.
        delta: gradients of the outputs ``[B, O, H', W']``.

    Returns:
        Patches ``[B, H' W', C k k]`` and gradients ``[B, H' W', O]``.
    """
    assert not isinstance(module.padding, str)
    a = nn.functional.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
    return a.transpose(1, 2), delta.flatten(2).transpose(1, 2)
