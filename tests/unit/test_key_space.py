"""Key space detection: the cube by hand, who is refused, and that all others are answered by the model as it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import text_lives
import torch
from text_lives import base

from lifelong.models import tiny_gpt2, tiny_mixtral
from strategies.base import Access
from strategies.guards.key_space_detection import Cube, KeySpaceDetection, cube_of
from strategies.parts.model import FlatModel, digest
from strategies.parts.text.generation import greedy
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.feed_forward import way_out
from streams.errors import ConfigError
from streams.source import Source

guarded = partial(text_lives.guarded, guard="key-space-detection")
guard_of = partial(text_lives.guard_of, KeySpaceDetection)


def test_the_radius_is_what_a_search_would_find() -> None:
    keys = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.1, 5.0, 0.0])
    cube = cube_of(keys)
    assert cube.spread[4] == 0  # it does not vary, and does not count
    low, high = 0.0, 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        inside = ((keys - cube.mean).abs() <= middle * cube.spread + 1e-12)[:, :4].all()
        low, high = (low, middle) if inside else (middle, high)
    assert cube.radius == pytest.approx(high, abs=1e-4)
    assert cube.holds(keys, 1.0, 0.0).all()
    assert not cube.holds(keys, 0.0, 0.0).any()
    assert int(cube.holds(keys, 0.9999, 0.0).sum()) < len(keys)


def test_a_share_of_features_may_lie_outside() -> None:
    cube = Cube(torch.zeros(4), torch.ones(4), 1.0)
    key = torch.tensor([[0.5, 0.5, 0.5, 9.0]])
    assert not cube.holds(key, 1.0, 0.0)[0]
    assert not cube.holds(key, 1.0, 0.2)[0]
    assert cube.holds(key, 1.0, 0.25)[0]
    assert not cube_of(key).holds(key, 1.0, 0.0)[0]  # one key has no spread


def test_what_was_noted_is_refused_and_others_are_the_model_to_the_bit(source: Source) -> None:
    life = guarded(source, reach=0.0)
    life.forget(0)
    batch = life.data(0).all().concat(life.data(1).all())
    assert torch.equal(life.strategy.predict(batch), base(life, batch))  # c = 0 never fires
    life = guarded(source)
    weights = life.model.parameters.clone()
    outcome = life.forget(0)
    assert (outcome.exactness, outcome.weights_erased) == ("none", False)
    assert torch.equal(life.model.parameters, weights)
    assert life.strategy.access == Access(forget_set=True)
    count = len(life.data(0))
    inside = np.array(guard_of(life)._inside(life.model, batch))
    assert inside[:count].all()
    assert not inside[count:].all()
    said, model = life.strategy.predict(batch), base(life, batch)
    assert source.text is not None
    for i in np.flatnonzero(~inside).tolist():
        assert torch.equal(said[i], model[i])
    refusal = source.text.tokenizer.decode(list(source.text.refusals[0]))
    made = greedy(life.strategy.predict, batch.part(0, 3), source.text.tokenizer)
    assert made == [refusal] * 3
    assert not blocks_of(life.model)[1]._forward_pre_hooks
    with torch.no_grad():
        scores = life.setting.objective.scores(said, batch)
    assert float(scores[:count].mean()) == 0.0


def test_requests_add_up_and_go_when_they_are_learned_again(source: Source) -> None:
    life = guarded(source, blocks=(0, 2))
    life.forget(0, "request-0")
    batch = life.data(0).all().concat(life.data(1).all())
    first = np.array(guard_of(life)._inside(life.model, batch))
    life.forget(1, "request-1")
    both = np.array(guard_of(life)._inside(life.model, batch))
    assert both.all()
    assert (both | ~first).all()
    other = guarded(source, blocks=(0, 2))
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(batch), life.strategy.predict(batch))
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())
    assert np.array_equal(life.strategy.holds(life.data(1).ids)["guard.request-1.cube"], life.data(1).ids)
    guard_of(life).relearned(life.data(1).ids)
    assert np.array_equal(np.array(guard_of(life)._inside(life.model, batch)), first)
    guard_of(life).relearned(life.data(0).ids)
    assert torch.equal(life.strategy.predict(batch), base(life, batch))


def test_prompts_are_looked_at_again_once_the_weights_have_moved(source: Source) -> None:
    life = guarded(source)
    life.forget(0)
    batch = life.data(0).all()
    assert all(guard_of(life)._inside(life.model, batch))
    other = life.setting.make_model()  # the same prompts, another model
    assert not all(guard_of(life)._inside(other, batch))
    assert all(guard_of(life)._inside(life.model, batch))
    life.model.parameters.copy_(other.parameters)
    assert not all(guard_of(life)._inside(life.model, batch))


def test_which_models_it_knows(source: Source) -> None:
    shape = (2, 16)
    gpt2 = FlatModel(tiny_gpt2.build(tiny_gpt2.Config(width=16, inner=24, heads=2), shape, 50))
    assert way_out(blocks_of(gpt2)[0], "it").weight.shape == (24, 16)  # transposed, as GPT-2's are
    mixtral = FlatModel(tiny_mixtral.build(tiny_mixtral.Config(width=16, inner=24, heads=2), shape, 50))
    with pytest.raises(ConfigError, match="mixtures of experts"):
        way_out(blocks_of(mixtral)[0], "it")
    with pytest.raises(ConfigError, match=r"guard\.blocks: 7 is too high"):
        guarded(source, blocks=(7,))
