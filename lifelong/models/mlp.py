"""A multi-layer perceptron with ReLU; without hidden layers it is a linear model."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from strategies.parts.model import Network
from streams.config import Config as BaseConfig

STACKS = True
"""Several of them that differ in their weights alone can take their steps at once (`strategies.parts.stacked`)."""


class Config(BaseConfig):
    """Options of `mlp`."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 256)
    """Width of each hidden layer."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for inputs of any shape (they are flattened)."""
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    width = math.prod(input_shape)
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return Network(nn.Sequential(*layers), nn.Linear(width, num_outputs))
