"""A residual perceptron that denoises images; step and prompt enter every block as scale and shift (FiLM)."""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from strategies.parts.model import Network
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """Options of `mlp-denoiser`: for the objective `denoising`, on images of up to a few thousand numbers."""

    width: int = Field(256, ge=2)
    """Features between blocks. With `prediction: epsilon` it must exceed the numbers of an image for good results."""
    blocks: int = Field(4, ge=1)
    """Residual blocks."""
    words: int = Field(32, ge=1)
    """Size of a word's embedding."""


@final
class Text(nn.Module):
    """The text encoder: the sum of the embeddings of a prompt's words, and what a perceptron adds to that."""

    def __init__(self, num_words: int, size: int) -> None:
        super().__init__()
        self.num_words = num_words
        # A linear layer on one-hot rows is an embedding whose gradients per sample can be read off like any layer's.
        self.words = nn.Linear(num_words, size, bias=False)
        nn.init.normal_(self.words.weight)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.SiLU(), nn.Linear(2 * size, size))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return ``[B, size]`` of words int64 ``[B, W]``."""
        one_hot = F.one_hot(words, self.num_words).to(self.words.weight.dtype)
        embedding = self.words(one_hot).sum(1)
        return embedding + self.mlp(embedding)


@final
class Block(nn.Module):
    """Normalises, is scaled and shifted, and adds what a layer of twice the width makes of that."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return features ``[B, width]`` of features and what they are to be conditioned on, both ``[B, width]``."""
        scale, shift = self.film(condition).chunk(2, 1)
        return z + self.down(F.silu(self.up(self.norm(z) * (1 + scale) + shift)))


@final
class Body(nn.Module):
    """From a noisy image, its step and its prompt to features."""

    def __init__(self, config: Config, pixels: int, num_words: int) -> None:
        super().__init__()
        self.text = Text(num_words, config.words)
        self.read = nn.Linear(config.words, config.width)
        self.time = nn.Sequential(nn.Linear(64, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.enter = nn.Linear(pixels, config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return features ``[B, width]``."""
        condition = F.silu(self.time(waves(time).to(noisy)) + self.read(self.text(words)))
        z = self.enter(noisy.flatten(1))
        for block in self.blocks:
            z = block(z, condition)
        return F.silu(z)


def waves(time: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Return cosines and sines of steps ``[B]`` at `size` / 2 frequencies from 1 down to 1e-4, ``[B, size]``."""
    half = size // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device) / half)
    angles = time.unsqueeze(1) * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def build(config: Config, image_shape: tuple[int, ...], num_words: int) -> Network:
    """Return body and head; inputs are noisy ``[B, C, H, W]``, steps int64 ``[B]`` and words int64 ``[B, W]``."""
    pixels = math.prod(image_shape)
    head = nn.Linear(config.width, pixels)
    nn.init.zeros_(head.weight)  # it begins by predicting a grey image
    nn.init.zeros_(head.bias)
    return Network(Body(config, pixels, num_words), head)
