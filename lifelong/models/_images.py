"""What models for natural images share: colour channels, size and normalisation."""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.nn import functional as F

from streams.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@final
class Prepare(nn.Module):
    """From images ``[B, 1 or 3, H, W]`` in [0, 1] to three channels of one size, normalised as ImageNet is."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: int | None) -> None:
        """Resize to `size` x `size` (bilinear), or leave the size alone."""
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, 3, size, size]``."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        return (x - self.mean) / self.std


def check_images(model: str, input_shape: tuple[int, ...]) -> None:
    """Refuse what is not a grey or colour image.

    Raises:
        ConfigError: the inputs have another shape.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ConfigError(f"model: {model} needs images [1 or 3, H, W], the source has {input_shape}. Try mlp.")
