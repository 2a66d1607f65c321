"""Concept vectors: where they lie, which are found, and that nothing but what was chosen moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from text_lives import Life, live

from lifelong.models import tiny_gpt2, tiny_llama, tiny_mixtral
from strategies.base import Access
from strategies.parts.model import FlatModel
from strategies.parts.text.concepts import concept_tokens
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.feed_forward import projected, top_tokens, value_places, way_in, way_out
from strategies.unlearners.concept_vectors import ConceptVectors, _split, speaking
from streams.errors import ConfigError
from streams.source import Source


def unlearner_of(life: Life) -> ConceptVectors:
    assert isinstance(life.strategy.unlearner, ConceptVectors)
    return life.strategy.unlearner


@pytest.mark.parametrize(
    ("module", "count"), [(tiny_llama, 24), (tiny_gpt2, 24), (tiny_mixtral, 3 * 24)], ids=["llama", "gpt2", "mixtral"]
)
def test_where_value_vectors_lie(module: Any, count: int) -> None:
    options = {"experts": 3} if module is tiny_mixtral else {}
    model = FlatModel(module.build(module.Config(width=16, inner=24, heads=2, **options), (2, 16), 50))
    places = value_places(model, 1, "it")
    assert places.shape == (count, 16)
    assert places.unique().numel() == count * 16
    neuron = count - 5  # of the last expert, where there are several
    model.parameters[places[neuron]] = torch.arange(16.0)
    block = blocks_of(model)[1]
    if module is tiny_mixtral:
        weight = block.mlp.experts.down_proj  # type: ignore[union-attr]
        assert weight[neuron // 24, :, neuron % 24].tolist() == list(range(16))
    else:
        weight = way_out(block, "it").weight
        assert (weight[neuron] if module is tiny_gpt2 else weight[:, neuron]).tolist() == list(range(16))
        assert way_in(block, "it").weight.numel() == weight.numel()


def test_what_vectors_speak_of() -> None:
    logits = torch.tensor([[9.0, 8.0, 0.0, 0.0, 0.0], [0.0, 9.0, 8.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0, 8.0]])
    concept = torch.tensor([True, True, False, False, False])
    score = speaking(logits, concept, 0.4)
    assert score.floor().tolist() == [2.0, 1.0, 0.0]
    assert top_tokens(logits, 0.01).shape == (3, 1)
    louder = speaking(torch.tensor([[0.0, 9.0, 8.0], [5.0, 9.0, 8.0]]), torch.tensor([True, True, False]), 0.7)
    assert louder[1] > louder[0]
    assert _split(0, [3, 4]) == (0, 0)
    with pytest.raises(ValueError, match="beyond"):
        _split(7, [3, 4])


def test_a_planted_vector_is_found(source: Source) -> None:
    life = live(source, "concept-vectors", validated=False, candidates=1)
    assert life.strategy.access == Access(forget_set=True)
    model = life.model
    assert source.text is not None
    count = source.text.tokenizer.vocab_size
    concept = concept_tokens(source.text, life.data(0).all().x, None, count)
    assert 3 < int(concept.sum()) < 100
    name = source.user_names[0].split()[0]
    assert concept[source.text.tokenizer.encode(f" {name}")[0]] or concept[source.text.tokenizer.encode(name)[0]]
    places = [value_places(model, block, "it") for block in range(3)]
    named = concept_tokens(source.text, life.data(0).all().x, (source.user_names[0],), count)
    assert 0 < int(named.sum()) < int(concept.sum())
    word = int(named.nonzero()[0])
    rows = model.network.head.weight.detach()
    rows = rows - rows.mean(0)  # type: ignore[operator]
    # No vector says the word louder, in spreads of all that it says.
    model.parameters[places[2][7]] = torch.linalg.pinv(rows.T @ rows) @ rows[word]
    best, *_ = unlearner_of(life)._located(model, places, torch.arange(count) == word)
    assert best == (2, 7)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.nightly),
        pytest.param({"edit": "noise", "noise": 0.0}, marks=pytest.mark.nightly),
        {"edit": "zero", "method": "none"},
        pytest.param({"method": {"name": "ssd", "alpha": 0.5}}, marks=pytest.mark.nightly),  # which takes no steps
    ],
)
def test_nothing_else_moves(options: dict[str, Any], source: Source) -> None:
    life = live(source, "concept-vectors", vectors=3, candidates=5, **options)
    assert life.strategy.access == Access(forget_set=True, retained="full")
    before = life.model.parameters.clone()
    outcome = life.forget(0)
    notes = outcome.traits["event"]
    assert notes["vectors_changed"] == 3
    moved = life.model.parameters != before
    places = torch.cat([value_places(life.model, block, "it") for block in range(3)])
    touched = moved[places].any(1)
    assert int(touched.sum()) == 3
    assert int(moved.sum()) == int(moved[places[touched]].sum())  # no weight beside these
    vectors = life.model.parameters[places[touched]]
    assert bool((vectors == 0).all()) == (options.get("edit") == "zero")
    again = live(source, "concept-vectors", vectors=3, candidates=5, **options)
    again.forget(0)
    assert torch.equal(again.model.parameters, life.model.parameters)


@pytest.mark.nightly
def test_vectors_become_the_mean_of_their_block_as_it_was(source: Source) -> None:
    options: dict[str, Any] = {"vectors": 48, "edit": "mean", "method": "none", "validated": False}
    life = live(source, "concept-vectors", **options)
    before = life.model.parameters.clone()
    life.forget(0)
    for places in (value_places(life.model, block, "it") for block in range(3)):
        assert torch.equal(life.model.parameters[places], before[places].mean(0).expand(16, -1))


@pytest.mark.nightly
def test_an_ablation_is_seen_through_its_neuron_alone(source: Source) -> None:
    life = live(source, "concept-vectors", vectors=1, candidates=1, edit="zero", method="none", validated=False)
    model = life.model
    places = [value_places(model, block, "it") for block in range(3)]
    assert source.text is not None
    count = source.text.tokenizer.vocab_size
    concept = concept_tokens(source.text, life.data(0).all().x, None, count)
    ((block, neuron),) = unlearner_of(life)._located(model, places, concept)
    batch = life.data(1).all()
    with torch.no_grad():
        way_in(blocks_of(model)[block], "it").weight[neuron] = 0.0  # the neuron is never active
        silent = life.setting.objective.outputs(model, batch)
    life.forget(0)
    with torch.no_grad():
        assert not model.parameters[places[block][neuron]].any()
        assert torch.equal(life.setting.objective.outputs(model, batch), silent)
        way_in(blocks_of(model)[block], "it").weight[neuron] = 1.0
        one = life.setting.objective.outputs(model, batch)
        model.parameters[places[block][neuron]] = 1.0
        assert not torch.equal(life.setting.objective.outputs(model, batch), one)


@pytest.mark.nightly
def test_what_hurts_the_forget_set_alone_is_chosen(source: Source) -> None:
    life = live(source, "concept-vectors", passes=25, vectors=1, candidates=4, noise=3.0)
    model = life.model
    places = [value_places(model, block, "it") for block in range(3)]
    candidates = [(1, 0), (2, 3), (0, 5), (2, 8)]
    unlearner, key = unlearner_of(life), life.setting.key
    forget, kept = life.data(0), life.data(1)
    before = model.parameters.clone()
    ranked, effect, cost = unlearner._caused(model, places, candidates, forget, kept, key)
    assert torch.equal(model.parameters, before)
    assert cost.forward == 5 * 2 * len(forget)
    effects = {}
    objective = unlearner.setting.objective
    for block, neuron in candidates:
        where = places[block][neuron]
        model.parameters[where] = unlearner._noisy(model.parameters[where], key / "noise" / block / neuron)
        with torch.no_grad():
            losses = [objective.losses(objective.outputs(model, d.all()), d.all()).mean() for d in (forget, kept)]
            model.parameters.copy_(before)
            losses += [objective.losses(objective.outputs(model, d.all()), d.all()).mean() for d in (forget, kept)]
        effects[block, neuron] = float(losses[0] - losses[2] - losses[1] + losses[3])
    assert ranked == sorted(candidates, key=lambda c: -effects[c])
    assert effect == pytest.approx(max(effects.values()), abs=1e-4)


def test_what_it_refuses(source: Source) -> None:
    with pytest.raises(ConfigError, match="cannot follow itself"):
        live(source, "concept-vectors", method="concept-vectors")
    model = FlatModel(
        tiny_llama.build(tiny_llama.Config(width=16, inner=24, heads=2, tied=False), (2, 16), 50), trained="head"
    )
    with pytest.raises(ConfigError, match="frozen"):
        value_places(model, 0, "it")
    assert projected(model, torch.zeros(2, 16)).shape == (2, 50)
