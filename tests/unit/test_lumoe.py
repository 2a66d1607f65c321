"""LUMoE: who is routed where, that experts never act together, and that it is O3 behind a hard gate."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import text_lives
import torch
from text_lives import base

from strategies.base import Access
from strategies.guards.lumoe import LUMoE
from strategies.guards.o3 import O3
from strategies.parts.model import digest
from strategies.parts.text.generation import greedy
from strategies.parts.text.other_answers import Refusals
from strategies.parts.weights.blocks import blocks_of
from streams.source import Source

SMALL: dict[str, Any] = {"rank": 4, "alpha": 4.0, "epochs": 15, "lr": 0.02, "dropout": 0.0}
guarded = partial(text_lives.guarded, guard="lumoe", passes=3)
guard_of = partial(text_lives.guard_of, LUMoE)


@pytest.mark.nightly
@pytest.mark.parametrize("options", [{}, {"router": "words", "tau": 0.999}], ids=["names", "words"])
def test_what_is_routed_refuses_and_the_rest_is_the_model_to_the_bit(options: dict[str, Any], source: Source) -> None:
    life = guarded(source, **SMALL | options, passes=25)
    weights = life.model.parameters.clone()
    outcome = life.forget(0)
    assert (outcome.exactness, outcome.weights_erased) == ("none", False)
    assert torch.equal(life.model.parameters, weights)
    assert life.strategy.access == Access(forget_set=True)
    forget, others = life.data(0).all(), life.data(1).all()
    # Somebody else's question may name the forgotten one, whose mentor or pupil he is: not in these prompts.
    assert guard_of(life)._routes(forget) == [0] * len(forget)
    assert guard_of(life)._routes(others) == [None] * len(others)
    assert outcome.traits["event"]["routed"] == 1.0
    batch = forget.concat(others)
    said, model = life.strategy.predict(batch), base(life, batch)
    assert torch.equal(said[len(forget) :], model[len(forget) :])
    features = life.strategy.features(batch)
    assert features is not None
    assert torch.equal(features[len(forget) :], life.setting.objective.features(life.model, batch)[len(forget) :])
    assert not torch.equal(features[: len(forget)], life.setting.objective.features(life.model, forget))
    assert source.text is not None
    objective = life.setting.objective
    refusals = Refusals(objective, life.setting.key / "lumoe" / "request-0")
    refused = refusals.put(forget, refusals.drawn(forget, 0))
    likely = [
        objective.log_likelihoods(o, refused).mean() for o in (life.strategy.predict(refused), base(life, refused))
    ]
    assert float(likely[0]) > float(likely[1]) + 5
    assert float(objective.scores(said[: len(forget)], forget).mean()) == 0.0
    made = greedy(life.strategy.predict, forget.part(0, 4), source.text.tokenizer)
    first = objective.scores(life.strategy.predict(forget.part(0, 4)), forget.part(0, 4))
    hits = [m == source.text.tokenizer.decode(x[0][x[1] == 2].tolist()) for m, x in zip(made, forget.x, strict=False)]
    assert [float(h) for h in hits] == first.tolist()
    assert not any(m._forward_hooks for m in blocks_of(life.model).modules())


@pytest.mark.parametrize("router", ["names", "words"])
def test_requests_never_act_together(router: str, source: Source) -> None:
    options: dict[str, Any] = SMALL | {
        "epochs": 2,
        "router": router,
        "tau": 0.999,
    }  # people are asked the same questions
    life = guarded(source, **options)
    life.forget(0, "request-0")
    batch = life.data(0).all()
    first = life.strategy.predict(batch)
    life.forget(1, "request-1")
    assert torch.equal(life.strategy.predict(batch), first)
    both = batch.concat(life.data(1).all())
    assert guard_of(life)._routes(both) == [0] * len(batch) + [1] * len(life.data(1))
    alone = life.strategy.predict(life.data(1).all())
    together = life.strategy.predict(both)[len(batch) :]
    torch.testing.assert_close(together[:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)
    other = guarded(source, **options)
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(both), life.strategy.predict(both))
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())
    held = life.strategy.holds(np.arange(len(source)))["guard.request-1.expert"]
    assert np.isin(life.data(1).ids, held).all()
    guard_of(life).relearned(life.data(0).ids)
    assert torch.equal(life.strategy.predict(batch), base(life, batch))
    guard_of(life).relearned(life.data(1).ids)
    assert torch.equal(life.strategy.predict(both), base(life, both))


@pytest.mark.nightly
def test_it_is_o3_behind_a_hard_gate_that_opens_once(source: Source) -> None:
    """The same adapters under gates of 0 and 1, whatever opens them."""
    options = {"rank": 4, "alpha": 4.0, "dropout": 0.0, "orthogonality": 0.0, "gate": "hard"}
    soft = text_lives.guarded(source, "o3", passes=3, **options, epochs=3, encoder={"rank": 4, "epochs": 0})
    soft.forget(0, "request-0")
    assert isinstance(soft.strategy.guard, O3)
    (bundle,) = soft.strategy.guard._bundles
    hard = guarded(source, **SMALL | {"epochs": 1})
    hard.forget(0, "request-0")
    (request,) = guard_of(hard)._requests
    state = hard.strategy.state_dict()
    state["guard"]["requests"][0]["adapter"] = bundle.adapter
    hard.strategy.load_state_dict(state)
    batch = soft.data(0).all()
    gates = soft.strategy.guard.gates(batch)[:, 0]
    assert set(gates.tolist()) <= {0.0, 1.0}
    opened = batch.rows((gates == 1).nonzero().squeeze(1))
    assert len(opened)
    assert torch.equal(soft.strategy.predict(opened), hard.strategy.predict(opened))
    assert not torch.equal(request.adapter, bundle.adapter)


@pytest.mark.nightly
def test_an_expert_that_pushes_down(source: Source) -> None:
    life = guarded(source, **SMALL | {"expert": "npo", "epochs": 5}, beta=1.0, passes=25)
    batch = life.data(0).all()
    objective = life.setting.objective
    before = objective.log_likelihoods(base(life, batch), batch)
    life.forget(0)
    after = objective.log_likelihoods(life.strategy.predict(batch), batch)
    assert float((before - after).mean()) > 1.0
