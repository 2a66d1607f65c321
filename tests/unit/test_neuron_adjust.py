"""Neuron adjust: the map by hand, which neurons it moves, and that all else is the model to the bit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import text_lives
import torch
from text_lives import base

from strategies.base import Access
from strategies.guards.neuron_adjust import NeuronAdjust, mirrored, of_forgotten
from strategies.parts.model import digest
from strategies.parts.text.generation import greedy
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.feed_forward import way_in
from streams.source import Source
from streams.text import NOTHING

guarded = partial(text_lives.guarded, guard="neuron-adjust", passes=10)
guard_of = partial(text_lives.guard_of, NeuronAdjust)


def test_the_map_by_hand() -> None:
    retained, forget = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [0.5]])
    assert float(mirrored(torch.tensor([4.0]), retained, forget)) == 1.0  # the forgotten's mean becomes the other's
    # One spread above the mean of the forgotten lies one spread below that of what is retained.
    assert float(mirrored(torch.tensor([4.5]), retained, forget)) == -1.0
    same = torch.tensor([[1.0], [2.0]])
    assert float(of_forgotten(torch.tensor([7.0]), same, same)) == 0.5
    assert float(mirrored(torch.tensor([1.0]), same, same)) == 1.0
    normal = torch.distributions.Normal(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.5]))
    density = normal.log_prob(torch.tensor([3.0, 3.0])).exp()
    wanted = float(density[1] / density.sum())
    assert float(of_forgotten(torch.tensor([3.0]), retained, forget)) == pytest.approx(wanted, rel=1e-5)
    far = of_forgotten(torch.tensor([1e4]), retained, forget)
    assert float(far) == 0.0  # and not NaN, as densities that are both 0 would give


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_chosen_neurons_move_and_no_others(where: str, source: Source) -> None:
    life = guarded(source, where=where, share=0.3)
    weights = life.model.parameters.clone()
    outcome = life.forget(0)
    assert (outcome.exactness, outcome.weights_erased) == ("none", False)
    assert torch.equal(life.model.parameters, weights)
    assert life.strategy.access == Access(forget_set=True, retained="full")
    guard, batch = guard_of(life), life.data(0).all()
    (request,) = guard._requests
    assert sum(len(b.neurons) for b in request.blocks) == round(0.3 * 3 * 16)
    assert outcome.traits["event"]["adjusted_shift"] > 0
    with torch.no_grad():
        before = guard._heard(life.model, batch)
        there = batch.x[:, 1, : before[0].shape[1]] > 0
        for block, values in zip(request.blocks, before, strict=True):
            own = values[there][:, block.neurons]
            torch.testing.assert_close(block.forget[0], own.mean(0), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(block.forget[1], own.std(0, correction=0), rtol=1e-3, atol=1e-4)
            assert bool((block.forget[0] > block.retained[0]).all())
        with guard._adjusting(life.model, batch):
            after = guard._heard(life.model, batch)
    first = next(i for i, b in enumerate(request.blocks) if len(b.neurons))
    changed = (before[first] != after[first]).flatten(0, 1).any(0).nonzero().squeeze(1)
    assert set(changed.tolist()) <= set(request.blocks[first].neurons.tolist())
    assert len(changed)
    assert not way_in(blocks_of(life.model)[0], "it")._forward_hooks
    assert float((life.strategy.predict(batch) - base(life, batch)).abs().max()) > 1e-5


@pytest.mark.nightly
def test_without_neurons_it_is_the_model(source: Source) -> None:
    life = guarded(source, share=0.0)
    life.forget(0)
    batch = life.data(0).all()
    assert torch.equal(life.strategy.predict(batch), base(life, batch))


@pytest.mark.nightly
def test_what_is_drawn_for_a_token_does_not_depend_on_what_follows(source: Source) -> None:
    life = guarded(source, share=0.2)
    life.forget(0)
    batch = life.data(0).all().part(0, 3)
    whole = life.strategy.predict(batch)
    assert torch.equal(life.strategy.predict(batch), whole)
    x = batch.x.clone()
    prompt = int((x[0, 1] == 1).sum())
    x[:, 1, prompt:] = NOTHING
    alone = life.strategy.predict(text_lives.Batch(batch.ids, x, batch.y).part(0, 1))
    torch.testing.assert_close(alone[0], whole[0, : alone.shape[1]], rtol=1e-4, atol=1e-4)
    assert source.text is not None
    made = greedy(life.strategy.predict, batch, source.text.tokenizer)
    hits = [m == source.text.tokenizer.decode(r[0][r[1] == 2].tolist()) for m, r in zip(made, batch.x, strict=True)]
    assert [float(h) for h in hits] == life.setting.objective.scores(whole, batch).tolist()
    sure = guarded(source, share=0.2, draw="likelier")
    sure.forget(0)
    assert not torch.equal(sure.strategy.predict(batch), whole)


@pytest.mark.nightly
def test_requests_act_one_after_the_other_and_go(source: Source) -> None:
    life = guarded(source, share=0.1)
    life.forget(0, "request-0")
    batch = life.data(0).all()
    first = life.strategy.predict(batch)
    life.forget(1, "request-1")
    assert not torch.equal(life.strategy.predict(batch), first)
    other = guarded(source, share=0.1)
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(batch), life.strategy.predict(batch))
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())
    held = life.strategy.holds(np.arange(len(source)))["guard.request-1.neurons"]
    assert np.isin(life.data(1).ids, held).all()
    guard_of(life).relearned(life.data(1).ids)
    assert torch.equal(life.strategy.predict(batch), first)
    guard_of(life).relearned(life.data(0).ids)
    assert torch.equal(life.strategy.predict(batch), base(life, batch))
