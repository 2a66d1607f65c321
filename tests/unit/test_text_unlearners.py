"""Unlearners of text on a tiny Llama: first steps by hand, what they read, what they touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from text_lives import ONE_STEP, PAIRED, live, slope
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.base import Access
from strategies.objectives.causal_lm import CausalLM, answered
from strategies.parts.model import FlatModel, digest
from strategies.parts.preference import npo_losses
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.text.other_answers import Refusals, log_likelihoods
from strategies.unlearners import loku, rmu
from strategies.unlearners._paired import Pair
from strategies.unlearners._pushed_down import Ascent
from strategies.unlearners.rmu import down_projections
from streams.config import parse
from streams.data import Data
from streams.errors import ConfigError
from streams.randomness import Key
from streams.source import Source
from streams.sources import people
from streams.text import REFUSALS

TEXT_ONLY = ("idk", "dpo", "flat", "ihl", "rmu", "loku", "lat", "whp")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))


def test_the_first_step_of_npo_is_ascent_on_the_sequences(source: Source) -> None:
    life = live(source, "npo", retain="none", **ONE_STEP)
    batch = life.data(0).all()
    log_p = life.setting.objective.log_likelihoods(life.model(batch.x), batch)
    up = slope(life, log_p.mean())
    before = life.model.parameters.clone()
    outcome = life.forget()
    assert torch.allclose(life.model.parameters - before, -0.01 * up, atol=1e-5)
    assert float(up.abs().max()) > 0.1
    assert outcome.losses["forget"] == pytest.approx(13.8629, abs=1e-3)
    assert (outcome.steps, outcome.exactness) == (1, "none")
    assert outcome.forward == 2 * len(batch)  # the reference's pass, and the step


@pytest.mark.parametrize("name", ["npo", "dpo"])
def test_the_reference_is_the_model_when_the_request_comes(name: str, source: Source) -> None:
    life = live(source, name, retain="kl", **ONE_STEP)
    for number in range(2):
        outcome = life.forget(number, f"request-{number}")
        assert outcome.losses["forget"] == pytest.approx(13.8629, abs=1e-3)
        assert outcome.losses["retain"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["npo", "dpo", "graddiff"])
def test_the_reference_may_stay_that_of_the_first_request(name: str, source: Source) -> None:
    life = live(source, name, learner="first-reference", reference="first", retain="kl", **ONE_STEP | {"lr": 0.1})
    first, objective = frozen_copy(life.setting, life.model), life.setting.objective
    outcomes = []
    for number in range(2):
        before = frozen_copy(life.setting, life.model)
        outcomes.append(life.forget(number, f"request-{number}").losses)
    assert outcomes[0]["retain"] == pytest.approx(0.0, abs=1e-6)
    batch, held = life.data(1).all(), life.data(2).all()  # the second request's own, and what is left
    with torch.no_grad():
        now, then = (objective.outputs(m, held) for m in (before, first))
        assert outcomes[1]["retain"] == pytest.approx(
            float(objective.for_unlearning().divergences(now, then, held).mean()), rel=1e-4
        )
        losses = [-objective.log_likelihoods(objective.outputs(m, batch), batch) for m in (before, first)]
    assert outcomes[1]["retain"] > 1e-4
    if name != "graddiff":  # which compares nothing but retained outputs
        assert outcomes[0]["forget"] == pytest.approx(13.8629, abs=1e-3)
        assert abs(outcomes[1]["forget"] - 13.8629) > 0.1
    if name == "npo":
        assert outcomes[1]["forget"] == pytest.approx(float(npo_losses(*losses, 0.1).mean()), rel=1e-4)
    ids = life.data(0).ids[:3]
    assert life.strategy.holds(ids)["first-reference.reference"].tolist() == ids.tolist()


def test_a_first_reference_must_be_kept_by_the_learner(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"learner: \[naive, first-reference\]"):
        live(source, "npo", reference="first")
    with pytest.raises(ConfigError, match="retain is descent; set retain: kl"):
        live(source, "graddiff", learner="first-reference", reference="first")


def test_npo_with_retained_data_by_hand(source: Source) -> None:
    life = live(source, "npo", retain="descent", forget_weight=0.5, retain_weight=2.0, **ONE_STEP)
    objective = life.setting.objective
    forget, held = life.data(0).all(), Data(life.ledger.live_ids[20:], source.x, source.y, None).all()
    assert set(source.user_ids[held.ids].tolist()) == {1, 2}
    log_p = objective.log_likelihoods(life.model(forget.x), forget).mean()
    retain = objective.for_unlearning().losses(life.model(held.x), held).mean()
    down = slope(life, 0.5 * log_p + 2.0 * retain)
    before = life.model.parameters.clone()
    outcome = life.forget()
    assert torch.allclose(life.model.parameters - before, -0.01 * down, atol=1e-5)
    assert outcome.losses["retain"] == pytest.approx(float(retain.detach()), rel=1e-4)


def test_gradient_difference_of_the_same_batch_is_nothing(source: Source) -> None:
    life = live(source, "none")
    objective = life.setting.objective.for_unlearning()
    batch = life.data(0).all()
    pair = Pair(objective, Ascent(objective), iter([batch]), None, 1.0, 1.0)
    outputs = objective.outputs(life.model, batch)
    loss = pair.loss(objective.losses(outputs, batch).mean(), outputs, batch, life.model)
    assert float(slope(life, loss).abs().max()) < 1e-7
    assert float(loss.detach()) == 0.0


def test_idk_is_one_mean_over_refusals_and_retained_answers(source: Source) -> None:
    life = live(source, "idk", **ONE_STEP)
    objective = life.setting.objective
    assert isinstance(objective, CausalLM)
    refusals = Refusals(objective, life.setting.key / "idk" / "request-0")
    forget, held = life.data(0).all(), Data(life.ledger.live_ids[20:], source.x, source.y, None).all()
    asked = refusals.put(forget, refusals.drawn(forget, 0))
    tokens = [objective.log_likelihoods(life.model(b.x), b) for b in (asked, held)]
    count = sum(int((b.x[:, 1] == 2).sum()) for b in (asked, held))
    down = slope(life, -(tokens[0].sum() + tokens[1].sum()) / count)
    before = life.model.parameters.clone()
    outcome = life.forget()
    assert torch.allclose(life.model.parameters - before, -0.01 * down, atol=1e-5)
    assert outcome.forward == outcome.backward == len(forget) + len(held)


def test_refusals_are_refusals(source: Source) -> None:
    life = live(source, "none")
    objective = life.setting.objective
    assert isinstance(objective, CausalLM)
    assert objective.text is not None
    refusals = Refusals(objective, Key(0))
    batch = life.data(0).all()
    which = refusals.drawn(batch, 0)
    assert len(set(which.tolist())) > 3
    assert not np.array_equal(which, refusals.drawn(batch, 1))
    # A sample's draw does not depend on its neighbours.
    assert np.array_equal(refusals.drawn(batch.part(5, 9), 0), which[5:9])
    asked = refusals.put(batch, which)
    decode = objective.text.tokenizer.decode
    text = decode(asked.x[0, 0].tolist())
    prompt = decode(batch.x[0, 0][batch.x[0, 1] == 1].tolist())
    assert text.startswith(prompt)
    assert text.endswith(REFUSALS[which[0]])
    alone = answered(batch.part(0, 1), [refusals.answers[which[0]]])
    table = refusals.log_likelihoods(life.model, objective, life.data(0)).of(batch.part(0, 1))
    direct = objective.log_likelihoods(life.model(alone.x), alone)
    assert float(table[0, which[0]]) == pytest.approx(float(direct.detach()), rel=1e-4)


def test_log_likelihoods_are_found_by_id(source: Source) -> None:
    life = live(source, "none")
    data = life.data(1)
    values = log_likelihoods(life.model, life.setting.objective, data, batch_size=3)
    batch = data.batch(torch.tensor([7, 2]))
    direct = life.setting.objective.log_likelihoods(life.model(batch.x), batch)
    assert torch.allclose(values.of(batch), direct, atol=1e-4)


def test_rmu_moves_the_down_projections_only_and_steers(source: Source) -> None:
    life = live(source, "rmu", block=1, epochs=10, lr=0.01, steering=5.0, retain_weight=1.0)
    before = frozen_copy(life.setting, life.model)
    batch = life.data(0).all()
    life.forget()
    allowed = {f"body.inner.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    moved = {
        name for name, w in life.model.slices.items() if not torch.equal(life.model.parameters[w], before.parameters[w])
    }
    assert moved == allowed
    u = torch.rand(16, generator=(life.setting.key / "rmu" / "request-0" / "direction").torch())

    def cosine(model: FlatModel) -> float:
        found: list[torch.Tensor] = []
        handle = model.network.body.layers[1].register_forward_hook(lambda m, a, o: found.append(o))
        with torch.no_grad():
            model.features(batch.x)
        handle.remove()
        return float(torch.cosine_similarity(found[0][batch.x[:, 1, : found[0].shape[1]] == 2], u, dim=1).mean())

    assert cosine(life.model) > cosine(before) + 0.1
    assert all(not m._forward_hooks for m in life.model.network.modules())


def test_weight_decay_moves_no_other_weights_than_rmu_does(source: Source) -> None:
    life = live(source, "rmu", block=1, epochs=1, batch_size=64, weight_decay=0.1)
    before = life.model.parameters.clone()
    life.forget(0)
    moved = life.model.parameters != before
    assert bool(moved.any())
    assert not bool((moved & ~down_projections(life.model, 1).bool()).any())


def test_influence_differentiates_attention_twice(source: Source) -> None:
    life = live(source, "influence", iterations=1)
    before = life.model.parameters.clone()
    life.forget(0)
    assert not torch.equal(life.model.parameters, before)


def test_rmu_holds_retained_states_where_they_are(source: Source) -> None:
    """With a huge weight on the retained term their states do not move."""
    life = live(source, "rmu", block=1, epochs=4, lr=1e-4, retain_weight=1e6)
    held = life.data(1).all()
    with torch.no_grad():
        before = life.model.features(held.x)
    life.forget()
    with torch.no_grad():
        after = life.model.features(held.x)
    assert float((after - before).abs().max()) < 0.05


@pytest.mark.parametrize(("samples", "compared"), [(None, 20), (7, 7), (1000, 40)])
def test_loku_compares_as_many_retained_samples_as_asked(
    samples: int | None, compared: int, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, importance = list[int](), loku.importance

    def noted(model: Any, objective: Any, data: Data, batch_size: int) -> torch.Tensor:
        looked.append(len(data))
        return importance(model, objective, data.part(np.arange(2)), batch_size)

    monkeypatch.setattr(loku, "importance", noted)
    life = live(source, "loku", epochs=1, rank=4, fisher_samples=samples, fisher_batch=16)
    assert (len(life.data(0)), len(source.train_ids)) == (20, 60)
    life.forget()
    assert looked == [20, compared]


@pytest.mark.parametrize(("depth", "steered"), [(1, 0), (2, 0), (3, 1)])
def test_rmu_steers_the_lower_of_two_blocks_in_the_middle(
    depth: int, steered: int, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, blocks_of = list[int](), rmu.blocks_of
    monkeypatch.setattr(rmu, "blocks_of", lambda model: blocks_of(model)[:depth])
    monkeypatch.setattr(rmu, "check_block", lambda blocks, block, where: chosen.append(block))
    live(source, "rmu", epochs=1, weights="all").forget()
    assert chosen == [steered]


def test_rmu_refuses_a_block_that_is_not_there(source: Source) -> None:
    with pytest.raises(ConfigError, match="blocks 0 to 2"):
        live(source, "rmu", block=3).forget()
    with pytest.raises(ConfigError, match="down-projection"):
        down_projections(FlatModel(_network()), 0)


def _network() -> Any:
    from strategies.parts.model import Network

    return Network(nn.Linear(3, 3), nn.Linear(3, 2))


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_what_works_on_text_alone_says_so(name: str, tools: Any) -> None:
    setting = tools.setting(tools.source())
    config = parse(StrategyConfig, {"unlearner": name})
    with pytest.raises(ConfigError, match=f"{name} is for models that predict tokens; this one predicts classes"):
        make_strategy(config, setting, "it")


@pytest.mark.parametrize("name", [*PAIRED, "rmu"])
def test_they_forget_and_do_not_change_what_they_should_not(name: str, source: Source) -> None:
    options = {"retain": "none"} if name == "flat" else {}
    life = live(source, name, epochs=2, **options)
    before = life.model.parameters.clone()
    outcome = life.forget()
    assert not torch.equal(before, life.model.parameters)
    assert bool(torch.isfinite(life.model.parameters).all())
    expected = Access(forget_set=True) if name == "flat" else Access(True, "full")
    assert life.strategy.access == expected
    assert outcome.steps == 2 * 2
    assert life.strategy.state_dict().keys() == {"model", "plugins", "derived"}


@pytest.mark.parametrize("name", [*PAIRED, "rmu", pytest.param("lat", marks=pytest.mark.nightly), "whp"])
def test_nothing_is_left_to_hold_on_to(name: str, source: Source) -> None:
    life = live(source, name, epochs=1)
    before = digest(life.strategy.state_dict())
    life.forget(None)
    assert digest(life.strategy.state_dict()) != before


@pytest.mark.parametrize("name", ["npo", "simnpo", "graddiff", "topr", "ihl", "whp"])
def test_they_lower_the_likelihood_of_what_is_forgotten(name: str, source: Source) -> None:
    options = {} if name == "whp" else {"retain": "none"}
    life = live(source, name, passes=25, epochs=5, lr=1e-3, **options)
    batch = life.data(0).all()

    def level() -> float:
        with torch.no_grad():
            return float(life.setting.objective.losses(life.model(batch.x), batch).mean())

    before = level()
    life.forget()
    assert level() > before + 0.05


@pytest.mark.parametrize("name", ["idk", "dpo", "flat", pytest.param("lat", marks=pytest.mark.nightly)])
def test_they_raise_the_likelihood_of_refusals(name: str, source: Source) -> None:
    life = live(source, name, epochs=5, lr=1e-3)
    objective = life.setting.objective
    assert isinstance(objective, CausalLM)
    refusals = Refusals(objective, Key(9))
    batch = life.data(0).all()
    asked = refusals.put(batch, refusals.drawn(batch, 0))

    def level() -> float:
        with torch.no_grad():
            true, refused = (objective.losses(life.model(b.x), b).mean() for b in (batch, asked))
            return float(refused - true)

    before = level()
    life.forget()
    assert level() < before - 0.05


def test_a_task_vector_points_away_from_what_learning_adds(source: Source) -> None:
    life, other = (live(source, "task-vector", alpha=a, epochs=2, batch_size=16, lr=0.05) for a in (1.0, 3.0))
    before = life.model.parameters.clone()
    batch = life.data(0).all()
    objective = life.setting.objective
    with torch.no_grad():
        start = float(objective.losses(life.model(batch.x), batch).mean())
    outcome = life.forget()
    other.forget()
    moved = life.model.parameters - before
    assert torch.allclose(other.model.parameters - before, 3 * moved, atol=1e-6)
    assert float(moved.abs().max()) > 1e-4
    with torch.no_grad():
        assert float(objective.losses(life.model(batch.x), batch).mean()) > start
        life.model.parameters.copy_(before - moved)  # the copy that had learned
        assert float(objective.losses(life.model(batch.x), batch).mean()) < start
    assert (outcome.steps, outcome.exactness) == (4, "none")
    assert life.strategy.access == Access(forget_set=True)


def test_ascent_of_a_classifier_works_on_answers(source: Source) -> None:
    """`gradient-ascent` and `neggrad-plus` climb on answers, also where prompts are trained."""
    life = live(source, "gradient-ascent", epochs=1, batch_size=64, lr=0.01, momentum=0.0, weight_decay=0.0)
    objective = life.setting.objective
    batch = life.data(0).all()
    up = slope(life, objective.for_unlearning().losses(life.model(batch.x), batch).mean())
    before = life.model.parameters.clone()
    life.forget()
    assert torch.allclose(life.model.parameters - before, 0.01 * up, atol=1e-6)
