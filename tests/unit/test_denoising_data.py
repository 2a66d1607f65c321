"""Which data images can be generated of, and how prompts are read out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from strategies.objectives.denoising import Config, Denoising, image_shape
from streams.config import parse
from streams.errors import ConfigError
from streams.source import Source


def made(source: Source, **options: Any) -> Denoising:
    return Denoising.for_data(parse(Config, {"steps": 2, **options}), source, None, "cpu")


@pytest.mark.parametrize("number", [1.01, -0.01])
def test_numbers_beyond_black_and_white_are_refused(digits: Source, number: float) -> None:
    x = digits.x.clone()
    x[digits.train_ids[0], 3] = number
    with pytest.raises(ConfigError, match=rf"numbers in \[0, 1\].* lie in .*{number:g}"):
        made(replace(digits, x=x))


def test_real_valued_targets_are_refused(digits: Source) -> None:
    with pytest.raises(ConfigError, match="makes images with labels, and 'digits' has none"):
        made(replace(digits, y=digits.x[:, 0]))


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [((64,), 1, (1, 8, 8)), ((64,), 4, (4, 4, 4)), ((3, 4, 5), 1, (3, 4, 5)), ((1, 4, 5), 1, (1, 4, 5))],
)
def test_shapes_of_images(shape: tuple[int, ...], channels: int, expected: tuple[int, ...]) -> None:
    assert image_shape(shape, "some", channels) == expected


@pytest.mark.parametrize(
    ("shape", "channels"), [((63,), 1), ((65,), 1), ((64,), 3), ((2, 4, 4), 1), ((3, 4, 4), 4), ((4, 4), 1)]
)
def test_what_is_no_image_is_refused(shape: tuple[int, ...], channels: int) -> None:
    with pytest.raises(ConfigError, match=r"makes images \[C, H, W\] or square rows"):
        image_shape(shape, "some", channels)


def test_prompts_name_styles_where_there_are_some(digits: Source) -> None:
    styled = replace(digits, domain_ids=np.arange(len(digits)) % 2, domain_names=("old", "new"))
    prompt = np.array([3, 1])
    assert made(styled).prompts.text(prompt) == "3 in new style"
    assert made(styled, template="{style} {object}").prompts.text(prompt) == "new 3"
    for source, options in ((styled, {"styles": "none"}), (digits, {})):
        assert made(source, **options).prompts.text(np.array([3, -1])) == "3"
        with pytest.raises(ConfigError, match=r"names a style, and prompts have none"):
            made(source, **options, template="{object}, {style}")
    assert torch.equal(made(styled).prompts.tokens[4, 2], torch.tensor([4, 12]))
