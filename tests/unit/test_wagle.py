"""WAGLE: scores by hand, weights that must not move, and the method itself where all may."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from text_lives import live

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.base import Access
from strategies.parts.weights.fisher import gradient_of, loss_gradient
from strategies.parts.weights.ranks import largest
from strategies.unlearners.wagle import attributions
from streams.config import parse
from streams.errors import ConfigError
from streams.source import Source
from streams.sources import people

METHOD = {"name": "graddiff", "epochs": 2, "lr": 1e-2, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))


def test_scores_by_hand() -> None:
    theta, forget, retained = (
        torch.tensor([2.0, -1.0, 0.5]),
        torch.tensor([1.0, 3.0, 0.0]),
        torch.tensor([0.5, -0.5, 9.0]),
    )
    assert attributions(theta, forget, retained, 0.5).tolist() == [1.0, 0.0, 0.0]
    assert attributions(theta, forget, retained, 1e9).tolist() == pytest.approx([2.0, -3.0, 0.0])
    assert attributions(theta, forget, None, 0.5).tolist() == [2.0, -3.0, 0.0]
    assert attributions(theta, forget, retained, None).tolist() == [2.0, -3.0, 0.0]
    assert largest(torch.tensor([2.0, -3.0, 0.0, 1.0]), 0.5).tolist() == [True, True, False, False]
    assert largest(torch.zeros(5), 0.01).sum() == 1


def test_what_is_masked_out_stays_to_the_bit_although_weights_decay(source: Source) -> None:
    life = live(source, "wagle", method=METHOD, share=0.3, gamma=1e-3)
    before = life.model.parameters.clone()
    objective = life.setting.objective.for_unlearning()
    forget = life.data(0)
    kept = life.data(1).all().concat(life.data(2).all())
    g_f = loss_gradient(life.model, objective, forget) / len(forget)
    life.model.train(False)
    g_r = gradient_of(life.model, objective.losses(objective.outputs(life.model, kept), kept).mean())
    mask = largest(attributions(before, g_f, g_r, 1e-3), 0.3)
    life.forget(0)
    moved = life.model.parameters != before
    assert float(moved.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float((moved & ~mask).float().mean()) < 0.01  # rounding of sums may swap a few at the border


def test_where_all_weights_may_move_it_is_the_method_to_the_bit(source: Source) -> None:
    plain = live(source, "graddiff", **{k: v for k, v in METHOD.items() if k != "name"})
    masked = live(source, "wagle", method=METHOD, share=1.0)
    plain.forget(0)
    masked.forget(0)
    assert torch.equal(plain.model.parameters, masked.model.parameters)


def test_what_it_reads_is_declared(source: Source) -> None:
    alone = {"name": "graddiff", "epochs": 1, "retain": "none"}
    assert live(source, "wagle", method=alone, gamma=None).strategy.access == Access(forget_set=True)
    assert live(source, "wagle", method=alone).strategy.access == Access(forget_set=True, retained="full")
    life = live(source, "wagle", method=alone, gamma=None, share=0.5)
    before = life.model.parameters.clone()
    life.forget(None)  # all that was learned
    assert not torch.equal(life.model.parameters, before)


def test_it_follows_others_and_not_itself(source: Source) -> None:
    setting: Any = live(source, "none").setting
    with pytest.raises(ConfigError, match="cannot follow itself"):
        make_strategy(parse(StrategyConfig, {"unlearner": {"name": "wagle", "method": "wagle"}}), setting, "it")


def test_methods_that_take_no_steps_are_masked_too(source: Source) -> None:
    life = live(source, "wagle", method={"name": "ssd", "alpha": 0.5}, share=0.1)
    before = life.model.parameters.clone()
    life.forget(0)
    assert 0 < float((life.model.parameters != before).float().mean()) <= 0.1


def test_what_builds_the_model_anew_cannot_be_masked(source: Source) -> None:
    for name in ("wagle", "disruption-mask", "concept-vectors", "prune-first"):
        for method in ({"name": "retrain"}, {"name": "trained-only", "method": "retrain"}):
            with pytest.raises(ConfigError, match=rf"{name}\.method: .* does not work on|builds the model anew"):
                live(source, name, method=method)
