"""SEUF: which expert is found, what moves, and that the anchor keeps the forget set routed there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from text_lives import Life, live

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_mixtral
from lifelong.setup.build import make_strategy
from strategies.base import Access, Setting
from strategies.composed import Composed
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import Listener, blocks_of
from strategies.parts.weights.experts import expert_mask, mixtures_of
from strategies.unlearners._steering import counting
from strategies.unlearners.seuf import SEUF, anchor_loss, attributions
from streams.config import parse
from streams.errors import ConfigError
from streams.events import Experience
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source


def lived(source: Source, passes: int = 1, **options: Any) -> Life:
    """A life of a small Mixtral that has learned everything."""
    objective = live(source, "none").setting.objective

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            sizes = tiny_mixtral.Config(width=16, inner=16, depth=2, heads=2, experts=4)
            return FlatModel(tiny_mixtral.build(sizes, (2, 64), objective.num_outputs))

    training = Training(epochs=passes, lr=0.01, batch_size=16, optimizer="adam")
    setting = Setting(Key(0), make_model, objective, training, (), len(source))
    strategy = make_strategy(parse(StrategyConfig, {"unlearner": {"name": "seuf", **options}}), setting, "it")
    assert isinstance(strategy, Composed)
    life = Life(source, setting, strategy, Ledger(source))
    experience = life.ledger.admit(Experience("all", (), source.train_ids))
    strategy.learn(experience, life.ledger.door(strategy.access, experience.sample_ids))
    return life


def unlearner_of(life: Life) -> SEUF:
    assert isinstance(life.strategy.unlearner, SEUF)
    return life.strategy.unlearner


def test_shares_and_anchor_by_hand() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.5, 0.5]])
    there = torch.tensor([[True, True], [True, False]])
    assert attributions(probabilities, there).tolist() == [pytest.approx([0.6, 0.4]), pytest.approx([0.1, 0.9])]
    logits = probabilities.log()
    wanted = (0.2**2 * 2 + 0.6**2 * 2 + 0.9**2 * 2) / 3
    assert float(anchor_loss(logits, there, [0])) == pytest.approx(wanted)
    assert float(anchor_loss(logits, there, [0, 1])) == pytest.approx((0.3**2 * 2 + 0.1**2 * 2 + 0.4**2 * 2) / 3)


def test_a_planted_router_is_found(source: Source) -> None:
    life = lived(source)
    shares = unlearner_of(life)._attributed(life.model, life.data(0))
    for share in shares:
        assert float(share.sum()) == pytest.approx(1.0, abs=1e-5)
    mixture = mixtures_of(life.model, "it")[1]
    mean: list[torch.Tensor] = []
    handle = mixture.gate.register_forward_pre_hook(lambda module, args: mean.append(args[0].reshape(-1, 16).mean(0)))
    life.model.features(*life.data(0).all().inputs)
    handle.remove()
    with torch.no_grad():
        mixture.gate.weight[2] += 20 * F.normalize(mean[0], dim=0)  # type: ignore[operator, index]
    planted = unlearner_of(life)._attributed(life.model, life.data(0))
    assert int(planted[1].argmax()) == 2
    assert float(planted[1][2]) > float(shares[1][2])


@pytest.mark.parametrize(("router", "experts", "loss"), [("whole", 1, "rmu"), ("rows", 2, "npo")])
def test_the_expert_and_its_router_move_and_nothing_else(router: str, experts: int, loss: str, source: Source) -> None:
    life = lived(source, router=router, experts=experts, loss=loss, epochs=2, weight_decay=0.1)
    assert life.strategy.access == Access(forget_set=True, retained="full")
    before = life.model.parameters.clone()
    shares = unlearner_of(life)._attributed(life.model, life.data(0))
    block = int(torch.stack([s.max() for s in shares]).argmax())
    chosen = shares[block].topk(experts).indices.tolist()
    notes = life.forget(0).traits["event"]
    assert notes["expert_block"] == block
    assert notes["expert_share"] == pytest.approx(float(shares[block][chosen].sum()), abs=1e-5)
    mask = expert_mask(life.model, mixtures_of(life.model, "it")[block], chosen, router == "whole")
    assert int(mask.sum()) == experts * (3 * 16 * 16) + (4 if router == "whole" else experts) * 16
    moved = life.model.parameters != before
    assert not bool((moved & ~mask).any())
    assert float(moved[mask].float().mean()) > 0.9
    assert not mixtures_of(life.model, "it")[block].gate._forward_hooks


@pytest.mark.nightly
def test_the_anchor_keeps_what_is_forgotten_where_it_is(source: Source) -> None:
    options: dict[str, Any] = {"loss": "ascent", "retain": "none", "lr": 0.01, "epochs": 5}
    free = lived(source, anchor=0.0, **options).forget(0).traits["event"]
    held = lived(source, anchor=10.0, **options).forget(0).traits["event"]
    assert held["expert_share_after"] > max(free["expert_share_after"], held["expert_share"])


@pytest.mark.nightly
def test_the_loss_of_what_is_forgotten_rises(source: Source) -> None:
    life = lived(source, anchor=0.0, retain="none", epochs=10, lr=0.01)
    objective, batch = life.setting.objective, life.data(0).all()

    def loss() -> float:
        life.model.train(False)
        with torch.no_grad():
            return float(objective.losses(objective.outputs(life.model, batch), batch).mean())

    before = loss()
    life.forget(0)
    assert loss() > before + 0.05


def states(life: Life, block: int, user: int) -> torch.Tensor:
    """What a block returns of a person's rows, at answers ``[n, width]``."""
    batch = life.data(user).all()
    listener = Listener(blocks_of(life.model)[block])
    life.model.train(False)
    with torch.no_grad():
        life.model.features(*batch.inputs)
    listener.close()
    return listener.state[counting(batch, listener.state.shape[1], "answer")]


def test_rmu_steers_in_the_expert_and_holds_the_states_of_what_stays(source: Source) -> None:
    u = torch.rand(16, generator=(Key(0) / "seuf" / "request-0" / "direction").torch())
    moved = {}
    for weight in (0.0, 100.0):
        options: dict[str, Any] = {"steering": 1.5, "retain_weight": weight, "anchor": 0.0}
        life = lived(source, loss="rmu", retain="states", epochs=3, lr=0.01, **options)
        before = [[states(life, block, user) for user in (0, 1)] for block in (0, 1)]
        notes = life.forget(0).traits["event"]
        block = int(notes["expert_block"])
        target = 1.5 * before[block][0].norm(dim=1).mean() * u / u.norm()
        far, near = (float((h - target).square().mean()) for h in (before[block][0], states(life, block, 0)))
        assert near < far
        moved[weight] = float((states(life, block, 1) - before[block][1]).square().mean())
        assert not blocks_of(life.model)[block]._forward_hooks
    assert moved[100.0] < 0.5 * moved[0.0]


def test_which_models_it_refuses(source: Source) -> None:
    with pytest.raises(ConfigError, match="tiny-mixtral"):
        live(source, "seuf")
    with pytest.raises(ConfigError, match=r"seuf\.experts: 9 is more than the 4"):
        lived(source, experts=9)
