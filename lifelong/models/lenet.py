"""LeNet-5 with ReLU and max pooling, for images of 28x28 or more."""

from __future__ import annotations

import math

import torch
from torch import nn

from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """`lenet` has no options."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for inputs ``[channels, height, width]``.

    Raises:
        ConfigError: the inputs are not images of a sufficient size.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 20:
        raise ConfigError(
            f"model: lenet needs images [C, H, W] of at least 20x20, the source has {input_shape}. Try mlp."
        )
    convolutions = nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    with torch.no_grad():
        width = math.prod(convolutions(torch.zeros(1, *input_shape)).shape[1:])
    body = nn.Sequential(*convolutions, nn.Linear(width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
    return Network(body, nn.Linear(84, num_outputs))
