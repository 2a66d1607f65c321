"""Guards that answer with a second model: ULD, offset and WHP-logit, by hand and on a trained tiny Llama."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import text_lives
import torch
from text_lives import Life, live

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.guards._assistants import Assisted
from strategies.guards.offset import shifted
from strategies.guards.uld import passing_tokens, uniform_divergence, without
from strategies.guards.whp_logit import lessened
from strategies.objectives import causal_lm
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.lowrank.gated import Adapters
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.text import generation
from strategies.parts.text.generation import greedy
from streams.config import parse
from streams.errors import ConfigError
from streams.ledger import Access
from streams.randomness import Key
from streams.source import Source
from streams.text import SAID, prompt_lengths

NAMES = ("uld", "offset", "whp-logit")
SMALL: dict[str, dict[str, Any]] = {
    "uld": {"layers": 2, "rank": None, "epochs": 8, "lr": 1e-2},
    "offset": {"layers": 1, "epochs": 6, "lr": 1e-2},
    "whp-logit": {"epochs": 6, "lr": 3e-3},
}


def guarded(source: Source, name: str, passes: int = 25, **options: Any) -> Life:
    """Return a life in which everything was learned, under a small guard that was asked for nothing yet."""
    return text_lives.guarded(source, name, passes, **(SMALL[name] | options))


class Noted:
    """A tokeniser that notes what it is asked to decode."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.eos, self.ids = inner, inner.eos, list[list[int]]()

    def decode(self, ids: list[int]) -> str:
        self.ids.append(list(ids))
        text: str = self.inner.decode(ids)
        return text


def guard_of(life: Life) -> Assisted:
    guard = life.strategy.guard
    assert isinstance(guard, Assisted)
    return guard


def losses(life: Life, user: int) -> float:
    batch = life.data(user).all()
    with torch.inference_mode():
        return float(life.setting.objective.losses(life.strategy.predict(batch), batch).mean())


# -- formulas by hand


def test_uld_by_hand() -> None:
    base, assistant = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.8, 0.1, 0.1]).log()
    found = without(base, [assistant], 0.8, 0.0)
    assert found.exp().tolist() == pytest.approx([0.836807, 1.261915, 0.630957], abs=1e-5)
    assert int(found.argmax()) == 1
    assert int(without(base, [assistant], -0.8, 0.0).argmax()) == 0
    both = without(base, [assistant, assistant + 3.0], 0.4, 0.0)  # logits are no log-probabilities before they are
    assert both.softmax(0).tolist() == pytest.approx(found.softmax(0).tolist(), abs=1e-6)


def test_what_is_added_to_all_logits_of_an_assistant_says_nothing() -> None:
    base, assistant = torch.tensor([2.0, 1.9, -3.0]), torch.tensor([1.0, -1.0, 0.0])
    assert passing_tokens(base, 0.5).tolist() == [True, True, False]
    assert torch.allclose(without(base, [assistant + 4.0], 0.8, 0.5), without(base, [assistant], 0.8, 0.5), atol=1e-5)


def test_an_offset_is_what_unlearning_has_added() -> None:
    base, new, old = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]), torch.tensor([1.0, 1.0])
    assert shifted(base, new, old, 0.5).tolist() == [0.75, 3.0]


def test_without_strength_or_knowledge_nothing_changes() -> None:
    base = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert without(base, [torch.randn(4, 7)], 0.0, 0.1) is base
    assert torch.allclose(without(base, [torch.full((4, 7), 5.0)], 0.8, 0.0).softmax(1), base.softmax(1), atol=1e-6)
    assert lessened(base, [torch.randn(4, 7)], 0.0) is base
    assert torch.equal(lessened(base, [base - 1.0], 2.0), base)
    assert torch.equal(shifted(base, base, base, 3.0), base)


def test_what_does_not_pass_the_filter_is_never_made_the_likeliest() -> None:
    base = torch.tensor([[5.0, 4.9, 0.0, -9.0]])
    assert passing_tokens(base, 0.5).tolist() == [[True, True, False, False]]
    assert passing_tokens(base, 0.75).tolist() == [[True, True, True, False]]  # the first 3 of 4
    assert passing_tokens(base, 0.0).all()
    loud = torch.tensor([[0.0, -50.0, -50.0, -50.0]])
    found = without(base, [loud], 1.0, 0.5)
    assert found[0, 2:].tolist() == base[0, 2:].tolist()
    assert int(found.argmax()) == 1


def test_whp_lowers_what_reinforcement_raises() -> None:
    base, reinforced = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 1.0, 4.0])
    assert lessened(base, [reinforced], 2.0).tolist() == [0.0, 2.0, 1.0]
    assert lessened(base, [reinforced, reinforced], 1.0).tolist() == [0.0, 2.0, 1.0]


def test_the_divergence_from_knowing_nothing() -> None:
    assert float(uniform_divergence(torch.full((1, 8), 3.0))) == pytest.approx(0, abs=1e-6)
    p = torch.tensor([[0.5, 0.25, 0.25]])
    expected = sum(1 / 3 * math.log(1 / 3 / q) for q in (0.5, 0.25, 0.25))
    assert float(uniform_divergence(p.log())) == pytest.approx(expected, rel=1e-5)


# -- on a model


@pytest.mark.parametrize("name", NAMES)
def test_an_unasked_guard_is_the_model(name: str, source: Source) -> None:
    life = guarded(source, name)
    batch = life.data(0).all()
    with torch.inference_mode():
        assert torch.equal(life.strategy.predict(batch), life.setting.objective.outputs(life.model, batch))
    wanted = Access(forget_set=True) if name == "whp-logit" else Access(forget_set=True, retained="full")
    assert guard_of(life).access == wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_composition_forgets_what_the_weights_still_know(name: str, source: Source) -> None:
    life = guarded(source, name)
    weights = life.model.parameters.clone()
    before = [losses(life, user) for user in (0, 1)]
    outcome = life.forget(0)
    assert outcome.exactness == "none"
    assert outcome.weights_erased is False
    assert torch.equal(life.model.parameters, weights)
    after = [losses(life, user) for user in (0, 1)]
    assert after[0] > before[0] + 0.1
    assert after[0] - before[0] > 1.5 * (after[1] - before[1])


@pytest.mark.parametrize("name", NAMES)
def test_of_a_large_vocabulary_only_logits_that_are_read_are_composed(
    name: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = guarded(source, name, epochs=1)
    life.forget(0)
    batch = life.data(0).all()
    whole, alone = life.strategy.predict(batch), text_lives.base(life, batch)
    monkeypatch.setattr(causal_lm, "LARGE", 1)
    said = life.strategy.predict(batch)
    read = ~said[:, :, 0].isnan()
    assert 0 < 2 * int(read.sum()) <= read.numel()
    torch.testing.assert_close(said[read], whole[read])
    assert not torch.allclose(whole[read], alone[read])


@pytest.mark.parametrize("name", NAMES)
def test_text_agrees_with_scores_and_with_whole_rows(name: str, source: Source) -> None:
    """The likeliest token at every position of what was made is the one that was made, cached or not."""
    life = guarded(source, name)
    life.forget(0)
    assert source.text is not None
    tokenizer, batch = source.text.tokenizer, life.data(0).all()
    noted = Noted(tokenizer)
    said = greedy(life.strategy.predict, batch, noted)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "growing", contextlib.nullcontext)
        assert greedy(life.strategy.predict, batch, tokenizer) == said
    longest = max(range(len(batch)), key=lambda i: len(noted.ids[i]))
    row, made = batch.part(longest, longest + 1), noted.ids[longest]
    given, x = int(prompt_lengths(row.x)), row.x.clone()
    x[0, :, given:] = 0
    x[0, 0, given : given + len(made)], x[0, 1, given : given + len(made)] = torch.tensor(made, dtype=x.dtype), SAID
    with torch.inference_mode():
        likeliest = life.strategy.predict(replace(row, x=x))[0].argmax(1)
    assert likeliest[given - 1 : given - 1 + len(made)].tolist() == made
    assert len(made) > 5


@pytest.mark.parametrize("name", NAMES)
def test_requests_stack_and_go_when_they_are_learned_again(name: str, source: Source) -> None:
    life = guarded(source, name, epochs=1)
    batch = life.data(2).all()
    life.forget(0, "request-0")
    state, first = life.strategy.state_dict(), life.strategy.predict(batch)
    one = life.strategy.state_bytes() - life.model.num_bytes()
    life.forget(1, "request-1")
    both, second = life.strategy.state_dict(), life.strategy.predict(batch)
    assert life.strategy.state_bytes() - life.model.num_bytes() == pytest.approx(2 * one, rel=0.2)
    assert not torch.equal(first, second)
    for saved, expected in ((state, first), (both, second)):
        other = guarded(source, name, epochs=1)
        other.strategy.load_state_dict(saved)
        assert torch.equal(other.strategy.predict(batch), expected)
        assert digest(other.strategy.state_dict()) == digest(saved)
    ids = life.data(0).ids
    held = life.strategy.holds(ids)
    assert np.array_equal(held["guard.request-0.assistant"], ids)
    guard_of(life).relearned(ids)
    assert [a["request"] for a in life.strategy.state_dict()["guard"]["assistants"]] == ["request-1"]
    guard_of(life).relearned(life.data(1).ids)
    with torch.inference_mode():
        assert torch.equal(life.strategy.predict(batch), life.setting.objective.outputs(life.model, batch))


@pytest.mark.parametrize("name", NAMES)
def test_one_assistant_is_trained_on(name: str, source: Source) -> None:
    life = guarded(source, name, epochs=1, requests="resume")
    life.forget(0, "request-0")
    one = life.strategy.state_bytes()
    weights = guard_of(life)._kept[0].weights[0].clone()
    life.forget(1, "request-1")
    assert life.strategy.state_bytes() == pytest.approx(one, rel=0.05)
    (kept,) = guard_of(life)._kept
    assert not torch.equal(kept.weights[0], weights)
    assert set(kept.ids) == {*life.data(0).ids, *life.data(1).ids}


def test_the_assistant_is_the_lowest_blocks_of_the_model(source: Source) -> None:
    life = guarded(source, "uld", layers=2)
    part = guard_of(life)._part_of(life.model)
    assert len(part.network.body.layers) == 2  # type: ignore[arg-type]
    named = dict(life.model.network.named_parameters())
    assert all(torch.equal(p, named[n]) for n, p in part.network.named_parameters())
    x = life.data(0).all().x
    with torch.no_grad():
        assert not torch.allclose(part(x), life.model(x))
    with pytest.raises(ConfigError, match=r"guard\.layers: 4 is more than the 3 blocks"):
        guarded(source, "uld", layers=4)


def test_adapters_of_the_assistant_are_merged(source: Source) -> None:
    """What answers differs from the part that it began as in the maps that have adapters, and there alone."""
    life = guarded(source, "uld", epochs=1, rank=4)
    before = guard_of(life)._part_of(life.model).parameters.clone()
    life.forget(0)
    after = guard_of(life)._models[0][0]
    changed = {n for n, where in after.slices.items() if not torch.equal(after.parameters[where], before[where])}
    assert changed
    assert all("proj" in n for n in changed)  # linear maps of the blocks, no norm and no embedding


def test_a_merged_adapter_acts_as_it_did_beside_the_weights(source: Source) -> None:
    life = guarded(source, "uld")
    model, batch = life.model.copied("cpu"), life.data(0).all()
    adapters = Adapters(model, rank=4, alpha=12.0, dropout=0.0)  # scaled by 3
    adapter = adapters.fresh(Key(0), model.parameters)
    adapter += 0.05 * torch.randn(adapter.shape, generator=torch.Generator().manual_seed(0))
    model.train(False)
    with torch.inference_mode():
        alone = life.setting.objective.outputs(model, batch)
        with adapters.gated(model, [adapter], torch.ones(len(batch), 1)):
            beside = life.setting.objective.outputs(model, batch)
    adapters.merge(model, adapter)
    with torch.inference_mode():
        merged = life.setting.objective.outputs(model, batch)
    assert torch.allclose(merged, beside, atol=1e-4)
    assert not torch.allclose(merged, alone, atol=1e-2)


def test_offset_is_trained_through_the_composition(source: Source) -> None:
    """It forgets together with the model; without strength the composition does not hear it, and it does not move."""
    batch_losses = []
    for strength in (1.0, 0.0):
        life = guarded(source, "offset", strength=strength, retain_weight=0.0)
        start = losses(life, 0)
        life.forget(0)
        new, old = guard_of(life)._models[0]
        moved = float((new.parameters - old.parameters).norm())
        batch_losses.append((losses(life, 0) - start, moved))
    assert batch_losses[0][0] > 0.1
    assert batch_losses[0][1] > 0
    assert batch_losses[1] == (0.0, 0.0)  # what is not heard is not taught


def test_who_has_no_blocks_has_no_assistant(source: Source) -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(400, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.embedding(x[:, 0].long())
            return hidden

    life = live(source, "none")
    objective = life.setting.objective
    assert isinstance(objective, CausalLM)
    setting = replace(
        life.setting, make_model=lambda: FlatModel(Network(Bare(), torch.nn.Linear(8, objective.num_outputs)))
    )
    with pytest.raises(ConfigError, match="no TokenBody"):
        make_strategy(parse(StrategyConfig, {"guard": "uld"}), setting, "it")
    make_strategy(parse(StrategyConfig, {"guard": "whp-logit"}), setting, "it")
