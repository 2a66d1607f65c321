"""ResNet-18 for small images: 3x3 stem without pooling; `width` 20 is the slim one of continual learning."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `resnet-18` (He et al. 2016; slim: Lopez-Paz and Ranzato 2017)."""

    width: int = Field(20, ge=1)
    """Channels of the first stage; the later ones have 2, 4 and 8 times as many. 20 is slim, 64 the full network."""


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        """Go from `before` to `after` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, after, H / stride, W / stride]``."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for inputs ``[channels, height, width]``.

    Raises:
        ConfigError: the inputs are not images of a sufficient size.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 8:
        raise ConfigError(
            f"model: resnet-18 needs images [C, H, W] of at least 8x8, the source has {input_shape}. Try mlp."
        )
    width = config.width
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for stage in range(4):
        after = width * 2**stage
        layers += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
        before = after
    return Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(before, num_outputs))
