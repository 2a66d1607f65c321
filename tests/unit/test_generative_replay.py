"""Generative replay: what is drawn, when, by which weights, and for which prompts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import mlp_denoiser
from strategies.base import Lesson, Setting
from strategies.learners.generative_replay import Config, GenerativeReplay
from strategies.objectives.classification import Classification
from strategies.objectives.denoising import Config as DenoisingConfig
from strategies.objectives.denoising import Denoising
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Access, Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import digits


@pytest.fixture(scope="module")
def source() -> Source:
    return digits.load(digits.Config())


@pytest.fixture(scope="module")
def setting(source: Source) -> Setting:
    objective = Denoising.for_data(parse(DenoisingConfig, {"steps": 3}), source, None, "cpu")

    def make() -> FlatModel:
        with seeded_globals(Key(0)):
            network = mlp_denoiser.build(mlp_denoiser.Config(width=16, blocks=1, words=4), *objective.sizes((64,)))
            torch.nn.init.normal_(network.head.weight, std=0.3)
        return FlatModel(network)

    return Setting(Key(1), make, objective, Training(batch_size=8), (), len(source))


def of_classes(source: Source, *classes: int) -> np.ndarray:
    return np.flatnonzero(np.isin(source.class_ids, classes) & ~source.is_test)


class Life:
    """A plugin, and the lessons it is told of."""

    def __init__(self, source: Source, setting: Setting, **options: Any) -> None:
        self.source, self.ledger = source, Ledger(source)
        self.plugin = GenerativeReplay(parse(Config, {"per_prompt": 3, "batch": 8, **options}), setting)
        self.model = setting.make_model()

    def begins(self, name: str, *classes: int) -> Lesson:
        ids = of_classes(self.source, *classes)
        door = self.ledger.door(Access(), ids)
        data = self.ledger.lend(ids)
        lesson = Lesson(Experience(name, (), ids), data, door, self.model, Key(1) / name, 4)
        self.plugin.begin(lesson)
        return lesson

    def pool(self) -> tuple[list[int], torch.Tensor]:
        """The classes that are replayed, and the images."""
        pool = self.plugin._pool
        assert pool is not None
        return sorted(set(pool.y.tolist())), pool.x


@pytest.fixture
def life(source: Source, setting: Setting) -> Life:
    return Life(source, setting)


def request(ids: np.ndarray) -> DeletionRequest:
    return DeletionRequest("request-0", (Request("class", (1,), ids, ids[:0], 1),))


def test_what_was_learned_before_is_drawn_when_an_experience_begins(life: Life, source: Source) -> None:
    lesson = life.begins("a", 0, 1, 2)
    assert life.plugin._pool is None, "nothing was learned before"
    batch = lesson.data.batch(torch.arange(4))
    assert life.plugin.extend(batch, 0) is batch
    life.plugin.end(lesson)
    lesson = life.begins("b", 2, 3)
    assert life.pool()[0] == [0, 1], "what it teaches itself is not drawn"
    outcome = life.plugin.end(lesson)
    assert outcome.forward == 3 * 2 * 6, "steps, twice for guidance, of six images"


def test_images_are_those_of_the_model_as_it_stands(life: Life, setting: Setting) -> None:
    """So that what an unlearner has changed since counts."""
    life.plugin.end(life.begins("a", 0, 1))
    life.model.parameters.mul_(1.1)
    before = life.model.parameters.clone()
    lesson = life.begins("b", 5)
    classes, images = life.pool()
    assert torch.equal(life.model.parameters, before)
    objective = Denoising.of(setting.objective)
    asked = np.repeat(np.array([[0, -1], [1, -1]]), 3, axis=0)
    noise = (lesson.key / "generative-replay" / "noise").normals(np.arange(6), 64)
    expected = objective.sample(partial(objective.outputs, life.model), asked, torch.from_numpy(noise).float())
    torch.testing.assert_close(images.view(-1, 1, 8, 8), expected, atol=1e-6, rtol=0)
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_prompt_is_replayed_until_its_last_sample_is_deleted(life: Life, source: Source) -> None:
    lesson = life.begins("a", 0, 1, 2)
    life.plugin.end(lesson)
    ones = of_classes(source, 1)
    assert life.plugin.holds(ones)["prompts"].tolist() == ones.tolist()
    life.plugin.purge(request(ones[1:]))
    life.begins("b", 5)
    assert life.pool()[0] == [0, 1, 2]
    life.plugin.purge(request(ones[:1]))
    assert not len(life.plugin.holds(ones)["prompts"])
    life.begins("c", 5)
    assert life.pool()[0] == [0, 2]


def test_batches_get_images_of_their_own_draws(life: Life, setting: Setting, source: Source) -> None:
    life.plugin.end(life.begins("a", 0, 1))
    lesson = life.begins("b", 5)
    batch = lesson.data.batch(torch.arange(4))
    longer = life.plugin.extend(batch, 0)
    assert len(longer) == 4 + 8
    assert torch.equal(longer.x[:4], batch.x)
    assert (longer.ids[4:] < 0).all(), "no sample's"
    assert set(longer.y[4:].tolist()) <= {0, 1}
    assert not torch.equal(life.plugin.extend(batch, 1).ids, longer.ids), "each step draws"
    drawn = setting.objective.drawn(longer, Key(3))
    for i in range(4, 12):
        same = (longer.ids == longer.ids[i]).nonzero()[0, 0]
        assert torch.equal(drawn.extra["noise"][i], drawn.extra["noise"][same])
    assert len(torch.unique(drawn.extra["noise"], dim=0)) == len(torch.unique(longer.ids))
    assert drawn.extra["style"].tolist() == [-1] * 12


def test_styles_are_drawn_too(source: Source, setting: Setting) -> None:
    from dataclasses import replace

    styled = replace(source, domain_ids=(source.class_ids % 2).astype(np.int64), domain_names=("even", "odd"))
    objective = Denoising.for_data(parse(DenoisingConfig, {"steps": 2}), styled, None, "cpu")

    def make() -> FlatModel:
        return FlatModel(mlp_denoiser.build(mlp_denoiser.Config(width=8, blocks=1), *objective.sizes((64,))))

    life = Life(styled, replace(setting, objective=objective, make_model=make))
    life.plugin.end(life.begins("a", 0, 1))
    lesson = life.begins("b", 5)
    longer = life.plugin.extend(lesson.data.batch(torch.arange(4)), 0)
    assert longer.extra["style"][:4].tolist() == [1] * 4
    assert torch.equal(longer.extra["style"][4:], longer.y[4:] % 2)


def test_who_tells_images_apart_is_refused(setting: Setting) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError):
        GenerativeReplay(Config(), replace(setting, objective=Classification(10)))
