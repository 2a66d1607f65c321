"""How language models see: a vision tower and a projector make positions of a row out of an image (LLaVA)."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn
from torch.nn import functional as F

from streams.errors import ConfigError


@final
class Sight(nn.Module):
    """From images to embeddings: scale, resize, tower, the features that are configured, projector."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, llava: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take tower and projector of a transformers LLaVA.

        Args:
            llava: a ``LlavaModel``.
            mean, std: of every channel that the tower reads, in units of the full range of a pixel.
        """
        super().__init__()
        self.tower, self.projector = llava.vision_tower, llava.multi_modal_projector
        self.config = llava.config
        vision, layers = llava.config.vision_config, llava.config.vision_feature_layer
        self._layers: list[int] = [layers] if isinstance(layers, int) else list(layers)
        self._skips_class = llava.config.vision_feature_select_strategy == "default"
        self._size, self._channels = int(vision.image_size), int(vision.num_channels)
        # SigLIP's towers, unlike CLIP's, have no position for the whole image that could be left out.
        has_class = vision.model_type == "clip_vision_model"
        self.positions = (self._size // int(vision.patch_size)) ** 2 + has_class - self._skips_class
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``[n, positions, width]`` of images ``[n, 1 or 3, H, W]``: uint8 pixels, or floats that are processed.

        Floats are already what the tower reads, scaled and normalised, so that zeros are the mean colour.
        """
        is_processed = images.is_floating_point()
        pixels = images.to(self.mean.dtype) / (1.0 if is_processed else 255.0)
        if pixels.shape[1] != self._channels:
            pixels = pixels.expand(-1, self._channels, -1, -1)
        if pixels.shape[-2:] != (self._size, self._size):
            pixels = F.interpolate(pixels, (self._size, self._size), mode="bicubic", antialias=True)
            pixels = pixels if is_processed else pixels.clamp(0, 1)
        processed = pixels if is_processed else (pixels - self.mean) / self.std
        hidden = self.tower(processed, output_hidden_states=True).hidden_states
        features = torch.cat([hidden[layer][:, int(self._skips_class) :] for layer in self._layers], -1)
        projected: torch.Tensor = self.projector(features)
        return projected

    def place(self, embedded: torch.Tensor, is_image: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings with those of images where a row has them; only images that a row speaks of are looked at.

        Args:
            embedded: ``[B, T, width]``.
            is_image: bool ``[B, T]``: runs of `positions` places; the first run of a row is its first image.
            images: ``[B, M, C, H, W]``, uint8 or processed floats.
        """
        counts = is_image.sum(1, keepdim=True) // self.positions
        is_shown = torch.arange(images.shape[1], device=images.device) < counts
        if not bool(is_shown.any()):
            return embedded
        features = self(images[is_shown]).to(embedded.dtype)
        return embedded.masked_scatter(is_image.unsqueeze(2), features)


def check_pictured(name: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of the images beside the text; refuse anything else.

    Raises:
        ConfigError: the source gives no text with images, or images that are not square.
    """
    if len(input_shape) != 6 or input_shape[0] != 2:
        raise ConfigError(
            f"model: {name} reads text with images, and the source gives inputs of shape {input_shape}. Use a source "
            f"that has both (instructions), or tiny-llama for text alone."
        )
    channels, height, width = input_shape[3:]
    if height != width:
        raise ConfigError(f"model: {name} reads square images, and those of the source are {height} x {width}.")
    return channels, height, width
