"""A small UNet of `diffusers` with cross-attention to a small CLIP text encoder, on patches; random weights."""

from __future__ import annotations

from typing import Any, Self, final

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `unet-small`: for the objective `denoising`. A step takes several times that of `mlp-denoiser`."""

    channels: tuple[int, ...] = Field((64,), min_length=1)
    """Channels of each resolution, the finest first; an image is halved once less than there are."""
    patch: int = Field(2, ge=1)
    """Side of the squares of pixels that become channels before the first layer. 4 for images of 16 and more pixels: on
    single pixels a UNet is far slower."""
    layers: int = Field(1, ge=1)
    """Blocks at each resolution."""
    heads: int = Field(4, ge=1)
    """Heads of attention."""
    groups: int = Field(16, ge=1)
    """Groups of group norms."""
    words: int = Field(64, ge=1)
    """Size of a word's embedding, and width of the text encoder."""
    text_layers: int = Field(1, ge=1)
    """Blocks of the text encoder."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for name, by in (("groups", self.groups), ("heads", self.heads)):
            if wrong := [c for c in self.channels if c % by]:
                raise ValueError(f"channels: {wrong[0]} cannot be divided by {name}: {by}")
        if self.words % self.heads:
            raise ValueError(f"words: {self.words} cannot be divided by heads: {self.heads}")
        return self


@final
class Body(nn.Module):
    """From a noisy image, its step and its prompt to the channels ``[B, C s s]`` that the last layer reads."""

    def __init__(self, unet: nn.Module, text: nn.Module, patch: int) -> None:
        """Take a UNet whose last layer is left out."""
        super().__init__()
        self.unet, self.text, self.patch = unet, text, patch

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return features."""
        states = self.text(input_ids=words).last_hidden_state
        patches = F.pixel_unshuffle(noisy, self.patch)
        return self.unet(patches, time, encoder_hidden_states=states, return_dict=False)[0].flatten(1)


@final
class Head(nn.Module):
    """The last convolution, and pixels of its channels again."""

    def __init__(self, last: nn.Module, channels: int, side: tuple[int, int], patch: int) -> None:
        """Read features ``[B, channels h w]``."""
        super().__init__()
        self.last, self._shape, self._patch = last, (channels, *side), patch

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return ``[B, C H W]``."""
        return F.pixel_shuffle(self.last(features.unflatten(1, self._shape)), self._patch).flatten(1)


def build(config: Config, image_shape: tuple[int, ...], num_words: int) -> Network:
    """Return body and head; inputs are noisy ``[B, C, H, W]``, steps int64 ``[B]`` and words int64 ``[B, W]``.

    Raises:
        ConfigError: the image cannot be cut into patches and halved, or diffusers is not there.
    """
    depth = len(config.channels)
    side = config.patch * 2 ** (depth - 1)
    if len(image_shape) != 3 or any(s % side for s in image_shape[1:]):
        raise ConfigError(
            f"model: unet-small cuts images into patches of {config.patch} and halves them {depth - 1} times, which "
            f"takes sides that {side} divides, and the source has {list(image_shape)}. Choose another patch, or fewer "
            f"channels."
        )
    height, width = (s // config.patch for s in image_shape[1:])
    inner = image_shape[0] * config.patch**2
    unet = unet_of(
        sample_size=(height, width),
        in_channels=inner,
        out_channels=inner,
        layers_per_block=config.layers,
        block_out_channels=config.channels,
        down_block_types=("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth,
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=config.words,
        norm_num_groups=config.groups,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=num_words,
            hidden_size=config.words,
            intermediate_size=2 * config.words,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.heads,
            max_position_embeddings=16,
            attention_dropout=0.0,
            bos_token_id=1,  # special tokens matter to its pooled output alone, which is not used
            eos_token_id=2,
        )
    )
    return split(unet, text, config.patch, (height, width))


def split(unet: Any, text: nn.Module, patch: int, side: tuple[int, int]) -> Network:
    """Return a UNet and a text encoder as body and head: its last convolution is the head."""
    last, unet.conv_out = unet.conv_out, nn.Identity()
    return Network(Body(unet, text, patch), Head(last, last.in_channels, side, patch))


def unet_of(**options: Any) -> Any:
    """Return a fresh UNet2DConditionModel.

    Raises:
        ConfigError: diffusers is not installed.
    """
    try:
        from diffusers import UNet2DConditionModel
    except ImportError as error:
        raise ConfigError(
            "model: UNets come from diffusers, which is not there. Choose mlp-denoiser, or install it: "
            "pip install 'lifelong-simulator[images]'"
        ) from error
    return UNet2DConditionModel(**options)
