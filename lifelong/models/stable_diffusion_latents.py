"""The autoencoder of a Stable Diffusion checkpoint, for `features`: latents of images, computed once and kept."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from lifelong.models._images import check_images
from strategies.parts.diffusion.checkpoint import encoded, part_of
from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `stable-diffusion-latents`."""

    checkpoint: str
    """Folder in the layout of diffusers, or name on the hub."""
    size: int | None = Field(None, ge=8)
    """Images are resized to size x size first (bilinear); null leaves them. Stable Diffusion 1 was made for 512."""


@final
class Encoder(nn.Module):
    """From images ``[B, 1 or 3, H, W]`` in [0, 1] to rows of latents."""

    def __init__(self, vae: nn.Module, size: int | None) -> None:
        """Take an autoencoder and the side to resize to, if any."""
        super().__init__()
        self.vae, self._size = vae, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return means of the posterior, scaled, ``[B, c h w]``."""
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        if self._size is not None:
            x = F.interpolate(x, (self._size, self._size), mode="bilinear", align_corners=False, antialias=True)
        return encoded(self.vae, x).flatten(1)


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the encoder for square grey or colour images.

    Raises:
        ConfigError: the checkpoint has no autoencoder, or its layers cannot halve the images.
    """
    check_images("stable-diffusion-latents", input_shape)
    vae = part_of(config.checkpoint, "vae")
    side = 2 ** (len(vae.config.block_out_channels) - 1)
    sides = input_shape[1:] if config.size is None else (config.size, config.size)
    if sides[0] != sides[1] or sides[0] % side:
        raise ConfigError(
            f"features.size: the autoencoder of {config.checkpoint} takes square images whose side {side} divides, and "
            f"gets {list(sides)}. Set size, such as {max(side, sides[0] // side * side)}."
        )
    return Network(Encoder(vae, config.size), nn.Identity())
