"""Convolutions over words with max pooling over time (Kim 2014), for texts as word numbers such as `wordnet`."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import nn

from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `text-cnn`."""

    vocabulary: int = Field(8192, ge=2)
    """Word numbers are below this; at least the source's `vocabulary`."""
    width: int = Field(64, ge=1)
    """Size of a word's embedding; it is learned from scratch."""
    kernels: tuple[int, ...] = (3, 4, 5)
    """Words that each kind of filter sees."""
    filters: int = Field(100, ge=1)
    """Filters of each kind; ExSSNeT has 200, on frozen BERT states."""


@final
class Encoder(nn.Module):
    """Word numbers to one feature per filter: its largest value anywhere in the text."""

    def __init__(self, config: Config) -> None:
        """Start at random."""
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.width, config.filters, k, padding=k - 1) for k in config.kernels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, kernels x filters]`` for numbers ``[B, words]``; 0 is no word.

        Raises:
            ConfigError: the inputs are no numbers of words, or the vocabulary is too small for them.
        """
        words = x.long()
        if bool((x != words).any()):
            raise ConfigError(
                "model: text-cnn reads the numbers of words, and the inputs are measurements. Choose a source of words "
                "such as wordnet, or another model; mlp takes any inputs."
            )
        if len(words) and not 0 <= int(words.min()) <= int(words.max()) < self.embedding.num_embeddings:
            raise ConfigError(
                f"model.vocabulary: {self.embedding.num_embeddings} is too small for the word number "
                f"{int(words.max())}. Set it to the vocabulary of the source."
            )
        states = self.embedding(words).transpose(1, 2)
        return torch.cat([convolve(states).relu().amax(2) for convolve in self.convolutions], 1)


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of word numbers.

    Raises:
        ConfigError: the inputs are not rows of numbers, or there is no kernel.
    """
    if len(input_shape) != 1:
        raise ConfigError(f"model: text-cnn needs rows of word numbers, the source has {input_shape}. Try lenet.")
    if not config.kernels or min(config.kernels) < 1:
        raise ConfigError(f"model.kernels: {list(config.kernels)} must be one or more widths of at least 1.")
    return Network(Encoder(config), nn.Linear(len(config.kernels) * config.filters, num_outputs))
