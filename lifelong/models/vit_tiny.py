"""A small vision transformer for images of any size, random or pretrained on a base session of glyphs."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import nn

from lifelong.models._base_session import base_weights
from strategies.parts.model import Network, needs_values
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `vit-tiny` (transformers' ViT; Dosovitskiy et al. 2021)."""

    patch: int = Field(7, ge=1)
    """Side of a patch; it must divide the image's sides."""
    width: int = Field(64, ge=4)
    """Size of a token."""
    depth: int = Field(4, ge=1)
    """Number of blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads; they must divide the width."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of hidden states while training."""
    pretrained: Literal["none", "glyphs"] = "none"
    """Random weights, or those of `lifelong pretrain vit-tiny`, run with the same sizes: trained on 300 characters of
    the `glyphs` source, the last ones by code point; stream the others (`source: {name: glyphs, classes: 373}`)."""


@final
class Encoder(nn.Module):
    """Images to the last state of the class token."""

    def __init__(self, inner: Any) -> None:
        """Take a transformers ViTModel."""
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, width]``."""
        hidden: torch.Tensor = self.inner(pixel_values=x).last_hidden_state
        return hidden[:, 0]


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for inputs ``[channels, height, width]``.

    Raises:
        ConfigError: the sizes do not fit, or the base session has not been run.
    """
    if len(input_shape) != 3 or input_shape[1] % config.patch or input_shape[2] % config.patch:
        raise ConfigError(
            f"model: vit-tiny needs images [C, H, W] with sides that patch ({config.patch}) divides, the source has "
            f"{input_shape}. Set model.patch, or try mlp."
        )
    if config.width % config.heads:
        raise ConfigError(f"model.heads: {config.heads} heads do not divide width {config.width}.")
    from transformers import ViTConfig, ViTModel

    described = ViTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=0.0,
        image_size=input_shape[1:],
        patch_size=config.patch,
        num_channels=input_shape[0],
    )
    body = Encoder(ViTModel(described, add_pooling_layer=False).train())
    if config.pretrained == "glyphs" and needs_values():
        body.load_state_dict(base_weights("vit-tiny", config.model_dump(mode="json"), input_shape))
    return Network(body, nn.Linear(config.width, num_outputs))
