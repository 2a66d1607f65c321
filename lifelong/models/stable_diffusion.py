"""The UNet and the text encoder of a Stable Diffusion 1 checkpoint: a folder, or a name on the hub."""

from __future__ import annotations

from typing import Literal

from lifelong.models.unet_small import split
from strategies.parts.diffusion.checkpoint import part_of
from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `stable-diffusion`.

    It goes with `objective: {name: denoising, checkpoint: ...}`, on `features: stable-diffusion-latents`, all of one
    checkpoint.
    """

    checkpoint: str
    """Folder in the layout of diffusers, or name on the hub."""
    text: Literal["trained", "frozen"] = "frozen"
    """Whether the text encoder is trained, too. Published erasers leave it, but for those that train it alone."""


def build(config: Config, image_shape: tuple[int, ...], num_words: int) -> Network:
    """Return body and head; inputs are noisy latents ``[B, c, h, w]``, steps int64 ``[B]`` and words int64 ``[B, L]``.

    Raises:
        ConfigError: a part of the checkpoint is missing, or it is for other latents or words.
    """
    unet, text = part_of(config.checkpoint, "unet"), part_of(config.checkpoint, "text_encoder")
    if unet.config.in_channels != image_shape[0] or num_words > text.config.vocab_size:
        raise ConfigError(
            f"model: stable-diffusion denoises latents of {unet.config.in_channels} channels under prompts of its own "
            f"tokenizer, and gets {list(image_shape)}. Set features: {{name: stable-diffusion-latents, checkpoint: "
            f"...}} and objective: {{name: denoising, checkpoint: ...}}."
        )
    side = 2 ** (len(unet.config.block_out_channels) - 1)
    if any(s % side for s in image_shape[1:]):
        raise ConfigError(
            f"model: the UNet of {config.checkpoint} halves latents to sides that {side} divides, and gets "
            f"{list(image_shape)}. Set features.size to another one."
        )
    text.requires_grad_(config.text == "trained")
    return split(unet.train(), text.train(), 1, (image_shape[1], image_shape[2]))
