"""Image generation by denoising: what a noisy image was, given a prompt for it; images are sampled from noise."""

from __future__ import annotations

import math
from functools import partial
from typing import final

import torch
from typing_extensions import override

from strategies.metric import Metric
from strategies.objectives._base import NamedObjective
from strategies.objectives._denoising import DenoisingConfig, DenoisingObjective
from strategies.parts.diffusion.checkpoint import autoencoder, tokens_of
from strategies.parts.diffusion.prompts import prompts_of
from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.source import Source


class Config(DenoisingConfig):
    """Options of `denoising` (Ho et al. 2020, arXiv 2006.11239)."""


METRICS = {
    "negative_denoising_error": Metric(
        "minus the mean squared error of what is predicted from a noised image", "squared error", "higher", 0.0
    )
}


@final
class Denoising(DenoisingObjective, NamedObjective):
    """Mean squared error of the predicted image, noise or velocity; the score is minus that."""

    @classmethod
    @override
    def for_data(
        cls,
        config: BaseConfig,
        source: Source,
        task_classes: tuple[tuple[int, ...], ...] | None,
        device: str | torch.device,
    ) -> Denoising:
        """Need images with numbers in [0, 1] and class labels; task labels make no difference."""
        assert isinstance(config, Config)
        if source.text is not None or source.y.is_floating_point():
            raise ConfigError(
                f"objective: denoising makes images with labels, and {source.name!r} has none. Use digits, glyphs, "
                f"fashion-mnist or emoji, or another objective."
            )
        latents, encode = config.checkpoint, None
        if latents is not None:
            encode = partial(tokens_of, latents)
        some = source.inputs(source.train_ids[:1000])
        if latents is None and (float(some.min()) < 0 or float(some.max()) > 1):
            raise ConfigError(
                f"objective: denoising takes images with numbers in [0, 1], and those of {source.name!r} lie in "
                f"{float(some.min()):.3g} to {float(some.max()):.3g}. Leave out what normalises them."
            )
        with_styles = config.styles == "domains" and source.domain_ids is not None
        template = config.template or ("{object} in {style} style" if with_styles else "{object}")
        if "{style}" in template and not with_styles:
            raise ConfigError(
                f"objective.template: {template!r} names a style, and prompts have none: styles is {config.styles!r} "
                f"and {source.name!r} has {'no ' if source.domain_ids is None else ''}domains. Leave {{style}} out."
            )
        channels = 1 if latents is None else int(autoencoder(latents).config.latent_channels)
        shape = image_shape(source.input_shape, source.name, channels)
        return cls(config, shape, prompts_of(source, template, with_styles, encode), device)


def image_shape(input_shape: tuple[int, ...], name: str, channels: int = 1) -> tuple[int, ...]:
    """Return the shape ``[C, H, W]`` of a source's images; a row of numbers is a square image of so many channels.

    Raises:
        ConfigError: it is none.

    >>> image_shape((64,), "digits"), image_shape((3, 16, 16), "emoji")
    ((1, 8, 8), (3, 16, 16))
    """
    side = math.isqrt(input_shape[0] // channels) if len(input_shape) == 1 else 0
    if len(input_shape) == 1 and channels * side**2 == input_shape[0]:
        return (channels, side, side)
    if len(input_shape) == 3 and input_shape[0] in (1, 3) and channels == 1:
        return input_shape
    raise ConfigError(
        "objective: denoising makes images [C, H, W] or square rows"
        + ("" if channels == 1 else f" of {channels} channels (features: stable-diffusion-latents)")
        + f", and a sample of {name!r} is {list(input_shape)}."
    )
