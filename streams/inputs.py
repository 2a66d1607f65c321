"""Inputs that are kept as bytes: what makes floats of them, the same ones on every device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Makes float32 of bytes: divides by `divisor`, then takes `mean` away and divides by `std`, where they are there.

    These are tensors on purpose: many devices multiply by the reciprocal of a plain number, which gives other bits.

    Attributes:
        divisor: float32 ``[1]``, what a byte is divided by.
        mean, std: float32 ``[C, 1, 1]``, of each channel, or None.
    """

    divisor: torch.Tensor
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 inputs of bytes ``[B, ...]``."""
        values = x.float().div_(self.divisor)
        if self.mean is not None and self.std is not None:
            values.sub_(self.mean).div_(self.std)
        return values

    def on(self, device: torch.device) -> Scale:
        """Return the same scale on a device."""
        moved = (None if t is None else t.to(device) for t in (self.mean, self.std))
        return Scale(self.divisor.to(device), *moved)


def scale(divisor: float = 255.0, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> Scale:
    """Return the scale of images ``[N, C, H, W]`` with public constants of each channel, or none.

    Args:
        divisor: what a byte is divided by.
        mean, std: never computed from the rows chosen; of the values after that division.
    """
    per_channel = (torch.tensor(values).view(-1, 1, 1) if values else None for values in (mean, std))
    return Scale(torch.tensor([divisor]), *per_channel)


def inputs_of(x: torch.Tensor, scale: Scale | None) -> torch.Tensor:
    """Return what models take: `x` itself, or float32 where it is bytes that have a scale."""
    return x if scale is None else scale(x)
