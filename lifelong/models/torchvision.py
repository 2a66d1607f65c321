"""Any classification model of torchvision by name, with its weights by option (downloaded by torchvision)."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import nn

from lifelong.models._images import Prepare, check_images
from strategies.parts.model import Network, needs_values
from streams.config import Config as BaseConfig
from streams.errors import ConfigError, closest


class Config(BaseConfig):
    """Options of `torchvision`. Inputs are images in [0, 1]."""

    model: str = "resnet18"
    """Name of the model, as in torchvision.models."""
    weights: str | None = None
    """null for random weights, or the name of weights such as DEFAULT or IMAGENET1K_V1."""
    size: int | None = Field(None, ge=1)
    """Images are resized to size x size; null leaves them as they are."""


@final
class Encoder(nn.Module):
    """Prepared images to features."""

    def __init__(self, inner: nn.Module, size: int | None) -> None:
        """Take a model whose classifier has been replaced."""
        super().__init__()
        self.prepare = Prepare(size)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, F]``."""
        features: torch.Tensor = self.inner(self.prepare(x))
        return features.flatten(1)


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for grey or colour images; the last linear layer gives way to our head.

    Raises:
        ConfigError: there is no such model or weights, the weights cannot be had, or the inputs do not fit.
    """
    check_images("torchvision", input_shape)
    from torchvision import models

    names = models.list_models(module=models)
    if config.model not in names:
        raise ConfigError(f"model.model: torchvision has no {config.model!r}. {closest(config.model, names)}")
    kwargs = {"image_size": config.size or input_shape[1]} if config.model.startswith("vit_") else {}
    if config.model in ("googlenet", "inception_v3"):
        kwargs |= {"aux_logits": False, "init_weights": True}
    try:
        inner = models.get_model(config.model, weights=config.weights if needs_values() else None, **kwargs)
    except (KeyError, ValueError) as error:
        known = [w.name for w in models.get_model_weights(config.model)]
        raise ConfigError(f"model.weights: {config.weights!r} does not fit ({error}); there are {known}.") from error
    except OSError as error:
        raise ConfigError(f"model.weights: {config.weights!r} cannot be downloaded: {error}.") from error
    _cut_classifier(inner, config.model)
    body = Encoder(inner, config.size)
    width = _width(body, input_shape, config)
    return Network(body, nn.Linear(width, num_outputs))


def _cut_classifier(inner: nn.Module, name: str) -> None:
    """Replace the last linear layer, which is the classifier in all of torchvision's models, by the identity."""
    linear = [n for n, m in inner.named_modules() if isinstance(m, nn.Linear) and "attention" not in n]
    if not linear:
        raise ConfigError(f"model.model: {name} does not end in a linear layer; choose another model.")
    parent, _, last = linear[-1].rpartition(".")
    setattr(inner.get_submodule(parent), last, nn.Identity())


def _width(body: nn.Module, input_shape: tuple[int, ...], config: Config) -> int:
    body.eval()
    try:
        with torch.no_grad():
            width = body(torch.zeros(1, *input_shape)).shape[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"model: torchvision's {config.model} cannot take images {input_shape} (size: {config.size}): {error}. "
            f"Set model.size, for example 224."
        ) from error
    body.train()
    return int(width)
