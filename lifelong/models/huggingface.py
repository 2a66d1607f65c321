"""Any image encoder of Hugging Face transformers by name or folder, with its weights or random ones."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import nn

from lifelong.models._images import Prepare, check_images
from strategies.parts.model import Network, needs_values
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `huggingface`. Inputs are images in [0, 1]."""

    model: str = "google/vit-base-patch16-224-in21k"
    """Name on the hub, or a folder with config.json (and weights)."""
    weights: Literal["pretrained", "none"] = "pretrained"
    """Weights of that model, or random ones for its configuration."""
    size: int | None = Field(None, ge=1)
    """Images are resized to size x size; null takes the size that the model was made for."""
    pool: Literal["first", "mean"] = "first"
    """Features of a transformer: those of its first token, or the mean over tokens. Maps are averaged."""


@final
class Encoder(nn.Module):
    """Images to one feature vector."""

    def __init__(self, inner: Any, size: int | None, pool: str) -> None:
        """Take an encoder that returns its last hidden state."""
        super().__init__()
        self.prepare = Prepare(size)
        self.inner = inner
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, F]``."""
        hidden: torch.Tensor = self.inner(pixel_values=self.prepare(x)).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        return hidden[:, 0] if self.pool == "first" else hidden.mean(1)


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for grey or colour images.

    Raises:
        ConfigError: the model cannot be had, or is no encoder of such images.
    """
    check_images("huggingface", input_shape)
    from transformers import AutoConfig, AutoModel

    try:
        described = AutoConfig.from_pretrained(config.model)
        if config.weights == "pretrained" and needs_values():
            inner = AutoModel.from_pretrained(config.model, dtype=torch.float32)
        else:
            inner = AutoModel.from_config(described)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.model: {config.model!r} cannot be loaded: {error}. Check the name, the network, or give a folder."
        ) from error
    size = config.size or described.to_dict().get("image_size")
    body = Encoder(inner.train(), size, config.pool)
    body.eval()
    try:
        with torch.no_grad():
            width = body(torch.zeros(1, *input_shape)).shape[1]
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"model.model: {config.model!r} does not encode images {input_shape}: {error}.") from error
    body.train()
    # A pooler behind the last hidden state would never get a gradient.
    unused = [p for n, p in inner.named_parameters() if n.startswith("pooler.")]
    for parameter in unused:
        parameter.requires_grad_(False)
    return Network(body, nn.Linear(width, num_outputs))
