"""Stable Diffusion checkpoints in diffusers' layout: a folder, or a name on the hub, with a folder for each part."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch

from strategies.parts.model import needs_values
from streams.errors import ConfigError

CheckpointPart = Literal["unet", "vae", "text_encoder", "tokenizer"]
BATCH = 16
"""Images that an autoencoder passes at once. Fixed: last bits depend on it."""


def part_of(checkpoint: str, part: CheckpointPart) -> Any:
    """Return a part of a checkpoint, freshly loaded, in float32; networks without values where none are wanted.

    Raises:
        ConfigError: diffusers is not installed, or the part is not there.
    """
    try:
        from diffusers import AutoencoderKL, UNet2DConditionModel
    except ImportError as error:
        raise ConfigError(
            f"checkpoint: {checkpoint} is read by diffusers, which is not there. Install it: "
            f"pip install 'lifelong-simulator[images]'"
        ) from error
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    kinds: dict[CheckpointPart, Any] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
    }
    options = {} if part == "tokenizer" else {"torch_dtype": torch.float32}
    try:
        if not needs_values() and part == "unet":
            return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(checkpoint, subfolder=part))
        if not needs_values() and part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_pretrained(checkpoint, subfolder=part))
        loaded = kinds[part].from_pretrained(checkpoint, subfolder=part, **options)
        if part == "tokenizer" and len(loaded) <= len(loaded.all_special_tokens):  # made of nothing, without a word
            raise OSError("it knows no words")
        return loaded
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"checkpoint: {checkpoint!r} has no part {part!r} that can be read ({str(error).splitlines()[0]}). "
            f"It must be a folder of Stable Diffusion 1 in the layout of diffusers (unet, vae, text_encoder, "
            f"tokenizer), or its name on the hub."
        ) from error


def tokens_of(checkpoint: str, texts: list[str]) -> torch.Tensor:
    """Return the tokens of texts, int64 ``[n, L]``, cut or filled to the length that the text encoder was made for."""
    tokenizer = part_of(checkpoint, "tokenizer")
    length = tokenizer.model_max_length
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: torch.Tensor = encoded.input_ids
    return tokens


@functools.lru_cache(maxsize=1)
def autoencoder(checkpoint: str) -> Any:
    """Return the frozen autoencoder, in evaluation mode; it is read once in a process."""
    return part_of(checkpoint, "vae").eval().requires_grad_(False)


@torch.no_grad()
def encoded(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the latents ``[B, c, h, w]`` of colour images ``[B, 3, H, W]`` in [0, 1]: scaled means, no draws."""
    parts = [vae.encode(2 * part - 1).latent_dist.mean for part in images.split(BATCH)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the images ``[B, 3, H, W]`` in [0, 1] of latents ``[B, c, h, w]``."""
    vae = vae.to(latents.device)
    parts = [vae.decode(part / vae.config.scaling_factor, return_dict=False)[0] for part in latents.split(BATCH)]
    return ((torch.cat(parts) + 1) / 2).clamp(0, 1)
