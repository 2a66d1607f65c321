"""UNets with cross-attention: what they take, that prompts are heard, and how they are taken apart."""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import unet_small
from strategies.objectives._base import EVALUATION
from strategies.objectives.denoising import Config as DenoisingConfig
from strategies.objectives.denoising import Denoising
from strategies.parts.diffusion.parts import part_mask
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.errors import ConfigError
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import digits

SMALL = {"channels": (8,), "groups": 4, "heads": 2, "words": 8}
needs_diffusers = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="pip install 'lifelong-simulator[images]'"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers, at import time


@pytest.fixture(scope="module")
def source() -> Source:
    return digits.load(digits.Config())


def model_of(objective: Denoising, **options: Any) -> FlatModel:
    with seeded_globals(Key(0)):
        config = parse(unet_small.Config, {**SMALL, **options})
        return FlatModel(unet_small.build(config, *objective.sizes((64,))))


@needs_diffusers
def test_a_unet_hears_its_prompt_and_is_taken_apart(source: Source) -> None:
    objective = Denoising.for_data(DenoisingConfig(steps=2), source, None, "cpu")
    model = model_of(objective)
    model.train(False)
    data = Ledger(source).lend(source.train_ids[:5])
    (batch,) = objective.batches(data, 5)
    with torch.no_grad():
        outputs = objective.outputs(model, batch)
        assert outputs.shape == (5, 64)
        assert objective.features(model, batch).shape == (5, 8 * 4 * 4)
        torch.testing.assert_close(model.network.head(objective.features(model, batch)), outputs)
        other = objective.outputs(model, replace(batch, y=(batch.y + 1) % 10))
        later = objective.outputs(model, replace(batch, extra={**batch.extra, "time": batch.extra["time"] // 2}))
    assert not torch.isclose(outputs, other).all(1).any()
    assert not torch.isclose(outputs, later).all(1).any()
    copied = copy.deepcopy(model.network)
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in model.network.parameters()}
    masks = {part: part_mask(model, part) for part in ("conditioning", "key-value", "rest", "text-encoder")}  # type: ignore[arg-type]
    assert not (masks["key-value"] & ~masks["conditioning"]).any()
    disjoint = masks["conditioning"].int() + masks["rest"].int() + masks["text-encoder"].int()
    assert (disjoint == 1).all()
    named = {n for n, where in model.slices.items() if masks["key-value"][where].all()}
    assert named
    assert all(n.split(".")[-2] in ("to_k", "to_v") and "attn2" in n for n in named)
    prompts = np.array([[3, -1]])
    noise = objective.noise(prompts, np.array([0]))
    image = objective.sample(lambda b: objective.outputs(model, b), prompts, noise)
    assert image.shape == (1, 1, 8, 8)
    loss = objective.losses(objective.outputs(model, objective.drawn(data.all(), EVALUATION)), batch).mean()
    loss.backward()
    assert bool((model.gradient != 0).float().mean() > 0.9), "every part of it learns"


@needs_diffusers
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, r"patches of 3 and halves them 0 times, which takes sides that 3 divides.*\[1, 8, 8\]"),
        ({"channels": (8, 8, 8), "patch": 4}, "sides that 16 divides"),
    ],
)
def test_an_image_that_cannot_be_halved_is_refused(options: dict[str, Any], message: str, source: Source) -> None:
    objective = Denoising.for_data(DenoisingConfig(), source, None, "cpu")
    with pytest.raises(ConfigError, match=message):
        model_of(objective, **options)


def test_sizes_that_do_not_divide_are_refused() -> None:
    for options, message in (({"channels": (10,)}, "10 cannot be divided by groups"), ({"words": 9}, "heads: 2")):
        with pytest.raises(ConfigError, match=message):
            parse(unet_small.Config, {**SMALL, **options})


def test_without_diffusers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install 'lifelong-simulator\[images\]'"):
        unet_small.unet_of()
