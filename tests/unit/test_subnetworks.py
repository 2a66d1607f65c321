"""supsup, ssnet and exssnet on digits: nothing is forgotten to the bit, and what a deletion leaves behind is known."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.models import lenet, resnet_18, vit_tiny
from strategies.base import Setting, Strategy
from strategies.isolated import _answers, _subnetworks, exssnet, ssnet, supsup
from strategies.isolated._subnetworks import Subnetworks
from strategies.isolated._supermasks import (
    WeightStep,
    binary,
    choose,
    entropy,
    initial_scores,
    one_shot,
    pack,
    positions_of,
    slopes_of,
    superfluous,
    unpack,
)
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.fit import Training, observed
from strategies.parts.model import FlatModel, Network, digest, num_bytes
from strategies.parts.training.optimizers import Adam, OptimizerConfig
from strategies.step import step
from streams.data import Batch
from streams.errors import CheckpointError, ConfigError, IntegrityError
from streams.events import DeletionRequest, Event, Experience, Request
from streams.ledger import Ledger
from streams.plan import Plan
from streams.randomness import Key, seeded_globals
from streams.registry import class_of
from streams.scenarios import class_incremental, domain_incremental, task_incremental
from streams.source import Source

NONE = np.array([], dtype=np.int64)


class World:
    """Digits in five tasks of two classes, task-aware, and a small network."""

    def __init__(
        self, plan: Plan, hidden: Sequence[int] = (100, 50), epochs: int = 2, seed: int = 0, batch: int = 32
    ) -> None:
        self.plan, self.source = plan, plan.source
        classes = None if plan.task_of is None else tuple(u.classes for u in plan.units)
        width = plan.source.x.shape[1]

        def make_model() -> FlatModel:
            with seeded_globals(Key(seed) / "init"):
                sizes, layers = (width, *hidden), []
                for before, after in zip(sizes[:-1], sizes[1:], strict=True):
                    layers += [nn.Linear(before, after), nn.ReLU()]
                return FlatModel(Network(nn.Sequential(*layers), nn.Linear(sizes[-1], plan.source.num_classes)))

        self.setting = Setting(
            Key(seed),
            make_model,
            Classification(plan.source.num_classes, classes),
            Training(epochs=epochs, batch_size=batch),
            plan.units,
            len(plan.source),
        )

    def strategy(self, module: ModuleType, **options: Any) -> Any:
        return class_of(module, Strategy)(module.Config(**options), self.setting)  # type: ignore[call-arg]

    def ledger(self) -> Ledger:
        return Ledger(self.source, self.plan.task_of)

    def held_out_of(self, unit: int) -> Any:
        ledger = self.ledger()
        return ledger.lend(self.plan.units[unit].test_ids).all()

    def accuracy(self, strategy: Any, unit: int) -> float:
        batch = self.held_out_of(unit)
        return float(self.setting.objective.scores(strategy.predict(batch), batch).mean())

    def request(self, *units: int, ids: np.ndarray | None = None) -> DeletionRequest:
        if ids is None:
            chosen = [e.sample_ids for e in self.plan.experiences if e.units[0] in units]
            ids = np.sort(np.concatenate(chosen))
        return DeletionRequest("request-0", (Request("task", units, ids, NONE, 0),))


def five_tasks(digits: Source) -> Plan:
    return task_incremental.build(digits, task_incremental.Config(experiences=5), 0)


@pytest.fixture(scope="module")
def world(digits: Source) -> World:
    return World(five_tasks(digits))


def logits(strategy: Any, world: World, units: Iterable[int]) -> list[torch.Tensor]:
    return [strategy.predict(world.held_out_of(u)) for u in units]


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def drift(strategy: Any, world: World, tools: Any) -> float:
    """Learn everything; return how far any output moved after its task was learned."""
    ledger, before = world.ledger(), []
    for unit, experience in enumerate(world.plan.experiences):
        tools.live(strategy, ledger, [experience])
        before += logits(strategy, world, [unit])
    after = logits(strategy, world, range(len(before)))
    return max(float((a - b).nan_to_num(0.0).abs().max()) for a, b in zip(before, after, strict=True))


def test_stages_change_only_what_is_theirs(world: World, tools: Any) -> None:
    strategy = world.strategy(exssnet)
    weights, ledger = strategy._canvas.weights, world.ledger()
    initial = weights.clone()
    taken = torch.zeros(len(weights), dtype=torch.bool)
    for number, experience in enumerate(world.plan.experiences, 1):
        before = weights.clone()
        tools.live(strategy, ledger, [experience])
        mask = unpack(strategy._nets[experience.units].bits, len(weights))
        free = mask & ~taken
        assert torch.equal(free, strategy._owner == number)
        assert torch.equal(weights[~free], before[~free])
        assert (weights[free] != before[free]).float().mean() > 0.3
        taken |= mask
    assert torch.equal(weights[~taken], initial[~taken])
    still = world.strategy(supsup)
    tools.live(still, world.ledger(), world.plan.experiences)
    assert torch.equal(still._canvas.weights, initial)
    assert "weights" not in still.state_dict()


def test_each_stage_moves_its_own_alone(world: World, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, ledger, moved = world.strategy(exssnet, kkt="best"), world.ledger(), []
    scores: list[torch.Tensor] = []
    original = _subnetworks.fit

    def watched(*args: Any, optimizer: Any) -> Any:
        if hasattr(optimizer, "scores"):
            scores.append(optimizer.scores)
        before = strategy._canvas.weights.clone(), scores[-1].clone()
        outcome = original(*args, optimizer=optimizer)
        after = strategy._canvas.weights, scores[-1]
        moved.append(tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
        return outcome

    monkeypatch.setattr(_subnetworks, "fit", watched)
    tools.live(strategy, ledger, world.plan.experiences[:3])
    assert moved == [(False, True), (True, False)] * 3, "weights and scores, in the mask stage and in the weight stage"
    assert all(torch.equal(strategy._scores((t,)), s) for t, s in enumerate(scores))


def test_the_mask_stage_is_that_of_supsup(world: World, tools: Any) -> None:
    """Nothing but scores moves in it, so that the first task's mask is the same whatever comes after."""
    first, masks = world.plan.experiences[:1], []
    for module in (supsup, ssnet, exssnet):
        strategy = world.strategy(module)
        tools.live(strategy, world.ledger(), first)
        masks.append(strategy._nets[(0,)].bits)
    assert same(masks[:2], masks[1:])


@pytest.mark.parametrize("module", [supsup, exssnet], ids=lambda m: m.__name__)
def test_nothing_is_forgotten_to_the_bit(module: ModuleType, world: World, tools: Any) -> None:
    strategy = world.strategy(module)
    assert drift(strategy, world, tools) == 0.0
    assert min(world.accuracy(strategy, u) for u in range(5)) > 0.8


def test_ssnet_does_forget(world: World, tools: Any) -> None:
    assert drift(world.strategy(ssnet), world, tools) > 1.0


def leak(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Let the exclusive step leak: by weight decay over whole layers, or by one optimizer's moments for all tasks."""
    original = WeightStep.step
    shared: dict[int, Adam] = {}

    def decay(self: WeightStep, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        original(self, parameters, gradient)
        parameters.mul_(1 - 1e-4)

    def carry(self: WeightStep, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        free = torch.zeros_like(parameters)
        free[self._positions] = 1
        config = OptimizerConfig(optimizer="adam", lr=0.01)
        shared.setdefault(id(parameters), Adam(config, parameters)).step(parameters, gradient * free)

    monkeypatch.setattr(WeightStep, "step", decay if how == "decay" else carry)


@pytest.mark.parametrize("how", ["decay", "moments"])
def test_a_leak_is_an_error_at_once(how: str, world: World, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leak(monkeypatch, how)
    strategy, ledger = world.strategy(exssnet), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences[:1])
    tools.live(strategy, ledger, world.plan.experiences[1:2])
    with pytest.raises(IntegrityError, match="subnetwork of task-0 have changed"):
        strategy.predict(world.held_out_of(0))
    with pytest.raises(IntegrityError):
        tools.live(strategy, ledger, world.plan.experiences[2:3])


@pytest.mark.parametrize("how", ["decay", "moments"])
def test_the_check_for_forgetting_detects_a_leak(
    how: str, world: World, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak(monkeypatch, how)
    monkeypatch.setattr(Subnetworks, "_verify", lambda self: None)
    assert drift(world.strategy(exssnet), world, tools) > 0.01


def test_a_changed_weight_is_an_error_at_once(world: World, tools: Any) -> None:
    strategy, ledger = world.strategy(exssnet), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences[:2])
    whole = strategy.state_dict()
    position = int(torch.nonzero(strategy._owner == 2)[0])
    strategy._canvas.weights[position] += 1e-6
    for act in (
        lambda: strategy.predict(world.held_out_of(0)),
        lambda: tools.live(strategy, ledger, world.plan.experiences[2:3]),
        lambda: strategy.forget(world.request(0), ledger.door(strategy.access, NONE)),
    ):
        with pytest.raises(IntegrityError, match="task-1"):
            act()
    whole["weights"][position] += 1e-6
    with pytest.raises(CheckpointError, match="damaged.*task-1"):
        world.strategy(exssnet).load_state_dict(whole)


def test_damaged_weights_of_a_subnetwork_s_own_are_noticed(world: World, tools: Any) -> None:
    strategy = world.strategy(exssnet, keep="private")
    tools.live(strategy, world.ledger(), world.plan.experiences[:2])
    whole = strategy.state_dict()
    world.strategy(exssnet, keep="private").load_state_dict(whole)
    whole["subnetworks"][1]["values"][0] += 1e-3
    with pytest.raises(CheckpointError, match="damaged.*task-1"):
        world.strategy(exssnet, keep="private").load_state_dict(whole)


@pytest.mark.parametrize("density", [0.1, 0.3])
def test_free_weights_become_rare(density: float, world: World, tools: Any) -> None:
    strategy, ledger = world.strategy(exssnet, density=density), world.ledger()
    for t, experience in enumerate(world.plan.experiences):
        outcome = strategy.learn(ledger.admit(experience), ledger.door(strategy.access, experience.sample_ids))
        traits = outcome.traits[f"task-{t}"]
        assert traits["free_share"] == pytest.approx((1 - density) ** t, abs=0.18)
        assert traits["mask_overlap"] == pytest.approx(1 - traits["free_share"])
        assert traits["mask_density"] == pytest.approx(density, abs=0.001)
        inherited = [outcome.traits[f"task-{u} > task-{t}"]["inherited"] for u in range(t)]
        assert sum(inherited) == pytest.approx(traits["mask_overlap"]), "every weight has one owner"


# --- KKT ---


def noisy_copy(digits: Source, shuffled: bool = False) -> Plan:
    """Task 1 holds the samples of task 0 with fresh noise, or with labels drawn anew."""
    plan, draw = five_tasks(digits), np.random.default_rng(0)
    x, y, ids = digits.x.clone(), digits.y.clone(), [e.sample_ids for e in plan.experiences]
    count = min(len(ids[0]), len(ids[3]))
    x[ids[3][:count]] = x[ids[0][:count]] + 0.05 * torch.from_numpy(draw.normal(size=(count, 64)).astype(np.float32))
    y[ids[3][:count]] = y[ids[0][:count]] + 6
    if shuffled:
        y[ids[3][:count]] = 6 + torch.from_numpy(draw.integers(0, 2, count))
    experiences = list(plan.experiences)
    experiences[3] = replace(experiences[3], sample_ids=ids[3][:count])
    return replace(plan, source=replace(digits, x=x, y=y), experiences=tuple(experiences))


def test_the_task_that_is_alike_is_chosen(digits: Source, tools: Any) -> None:
    world = World(noisy_copy(digits))
    strategy, ledger = world.strategy(supsup, kkt="best", kkt_share=1.0), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences[:3])
    kept = {u: strategy._scores(u).clone() for u in strategy._nets}
    tools.live(strategy, ledger, world.plan.experiences[3:4])
    assert strategy._nets[(3,)].reads == [(0,)]
    assert (3,) in strategy.dependents((0,))
    assert all(torch.equal(strategy._scores(u), scores) for u, scores in kept.items())


def test_labels_without_meaning_transfer_nothing(digits: Source, tools: Any) -> None:
    world = World(noisy_copy(digits, shuffled=True))
    strategy, ledger = world.strategy(supsup, kkt="best", kkt_share=1.0, kkt_neighbours=30), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences[:3])
    data = ledger.lend(world.plan.experiences[3].sample_ids)
    qualities = []
    for u in strategy._nets:
        strategy._canvas.wear(strategy._nets[u])
        features, order = strategy._canvas.model.features(data.all().x).detach(), data.positions(Key(0))
        qualities.append(_subnetworks.probe(features[order], data.targets()[order], 30))
    assert max(qualities) < 0.68, "chance is 0.5; three probes of 40 samples each"


@pytest.mark.parametrize("how", ["always", "all"])
def test_transferred_scores_are_copies(how: str, world: World, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    original = _subnetworks.ScoreStep

    def spy(*args: Any) -> Any:
        starts.append(args[1].clone())
        return original(*args)

    strategy, ledger = world.strategy(exssnet, kkt=how), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences[:2])
    kept = {u: (strategy._scores(u).clone(), net.bits.clone()) for u, net in strategy._nets.items()}
    monkeypatch.setattr(_subnetworks, "ScoreStep", spy)
    if how == "all":  # of those above chance: let both be
        monkeypatch.setattr(_subnetworks, "probe", lambda *args: 1.0)
    tools.live(strategy, ledger, world.plan.experiences[2:3])
    (start,) = starts
    if how == "always":
        spans = strategy._canvas.spans_of((2,))
        chosen = [u for u, (_, bits) in kept.items() if torch.equal(pack(choose(start, spans)), bits)]
        assert len(chosen) == 1, "right after initialisation the mask is that of the task it starts from"
    else:
        assert torch.allclose(start, torch.stack([s for s, _ in kept.values()]).mean(0), atol=1e-6)
    for u, (scores, bits) in kept.items():
        assert torch.equal(strategy._scores(u), scores)
        assert torch.equal(strategy._nets[u].bits, bits)


# --- deletion ---


def life(world: World, module: ModuleType, tools: Any, events: Sequence[Event], **options: Any) -> Any:
    strategy = world.strategy(module, **options)
    tools.live(strategy, world.ledger(), events)
    return strategy


def without(world: World, *units: int) -> list[Experience]:
    return [e for e in world.plan.experiences if e.units[0] not in units]


@pytest.mark.parametrize("repair", ["none", "cascade"])
def test_the_last_task_is_deleted_exactly(repair: str, world: World, tools: Any) -> None:
    request = world.request(4)
    deleted = life(world, exssnet, tools, [*world.plan.experiences, request], repair=repair)
    assert digest(deleted.state_dict()) == digest(life(world, exssnet, tools, without(world, 4)).state_dict())
    assert deleted.holds(request.sample_ids) == {}


@pytest.mark.parametrize("repair", ["none", "cascade"])
def test_supsup_deletes_any_task_exactly(repair: str, world: World, tools: Any) -> None:
    deleted = life(world, supsup, tools, [*world.plan.experiences, world.request(1)], repair=repair)
    assert digest(deleted.state_dict()) == digest(life(world, supsup, tools, without(world, 1)).state_dict())


def test_a_cascade_is_exact_and_learns_again_what_came_later(world: World, tools: Any) -> None:
    strategy, ledger = world.strategy(exssnet), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences)
    request = world.request(1)
    assert strategy.dependents((1,)) == [(2,), (3,), (4,)]
    assert strategy.foresee(request) == "bits"
    ledger.delete(request)
    outcome = strategy.forget(request, ledger.door(strategy.access, NONE, request.sample_ids))
    assert outcome.exactness == "bits"
    epochs = world.setting.training.epochs
    again = sum(len(e.sample_ids) for e in world.plan.experiences[2:])
    assert outcome.forward == 2 * epochs * again, "tasks 2, 3 and 4, in two stages, and nothing else"
    assert digest(strategy.state_dict()) == digest(life(world, exssnet, tools, without(world, 1)).state_dict())


def test_without_repair_later_tasks_are_not_those_of_a_life_without(world: World, tools: Any) -> None:
    strategy, ledger = world.strategy(exssnet, repair="none"), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences)
    untouched = logits(strategy, world, [0])
    clean = life(world, exssnet, tools, without(world, 1))
    request = world.request(1)
    assert strategy.foresee(request) == "none", "it says so beforehand"
    ledger.delete(request)
    outcome = strategy.forget(request, ledger.door(strategy.access, NONE, request.sample_ids))
    assert outcome.exactness == "none"
    assert outcome.steps == 0
    assert same(logits(strategy, world, [0]), untouched)
    assert same(logits(clean, world, [0]), untouched), "what came before is exact"
    for unit in (2, 3, 4):
        assert not same(logits(strategy, world, [unit]), logits(clean, world, [unit]))
        assert world.accuracy(strategy, unit) > 0.8, "accuracy tells nothing"
    assert np.array_equal(strategy.holds(request.sample_ids)["weights"], request.sample_ids)
    initial = strategy._canvas.initial()
    nobodys = strategy._owner == 0
    assert torch.equal(strategy._canvas.weights[nobodys], initial[nobodys]), "what only it trained is reset"
    assert "request" not in str(strategy.state_dict())
    assert [e["units"] for e in strategy.state_dict()["subnetworks"]] == [[0], [2], [3], [4]]


@pytest.mark.parametrize(
    "options",
    [
        {"repair": "none"},
        {"repair": "none", "erase": False},
        {"repair": "cascade"},
        {"keep": "private"},
        {"keep": "private", "erase": False},
    ],
    ids=lambda options: "-".join(f"{v}" for v in options.values()),
)
def test_after_a_deletion_a_new_task_leaves_the_others_alone(options: dict[str, Any], world: World, tools: Any) -> None:
    """A weight may lie in a live mask although its owner is gone."""
    strategy, ledger = world.strategy(exssnet, **options), world.ledger()
    tools.live(strategy, ledger, [*world.plan.experiences, world.request(1)])
    before = logits(strategy, world, [0, 2, 3, 4])
    masks = [strategy._canvas.mask_of(strategy._nets[(u,)]) for u in (0, 2, 3, 4)]
    tools.live(strategy, ledger, [replace(world.plan.experiences[1], incarnation=1)])
    assert same(logits(strategy, world, [0, 2, 3, 4]), before)
    if "keep" not in options:
        assert bool((strategy._owner == 5).any())
        assert not any(bool((mask & (strategy._owner == 5)).any()) for mask in masks)
    # Learned on top of what derives from deleted data it derives from that data, too.
    assert strategy._nets[(1,)].stale == (options.get("repair") == "none")
    assert world.accuracy(strategy, 1) > 0.8


@pytest.mark.nightly
def test_what_is_not_erased_stays_and_is_said_to_stay(world: World, tools: Any) -> None:
    """Only the mask is dropped: others compute as they did, to the bit, with what the deleted task has trained."""
    strategy, ledger = world.strategy(exssnet, repair="none", erase=False), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences)
    before, weights = logits(strategy, world, [0, 2, 3, 4]), strategy._canvas.weights.clone()
    owned, request = strategy._owner == 2, world.request(1)
    assert strategy.foresee(request) == "none"
    ledger.delete(request)
    outcome = strategy.forget(request, ledger.door(strategy.access, NONE, request.sample_ids))
    assert (outcome.exactness, outcome.steps) == ("none", 0)
    assert same(logits(strategy, world, [0, 2, 3, 4]), before)
    assert torch.equal(strategy._canvas.weights, weights)
    assert not torch.equal(weights[owned], strategy._canvas.initial()[owned])
    clean = life(world, exssnet, tools, without(world, 1))
    reset = life(world, exssnet, tools, [*world.plan.experiences, request], repair="none")
    assert same(logits(clean, world, [0]), before[:1]), "what came before is exact"
    for unit in (2, 3, 4):
        kept, exact, erased = (logits(s, world, [unit])[0] for s in (strategy, clean, reset))
        assert not torch.equal(kept, exact)
        assert not torch.equal(kept, erased)

    # Even when all that read it are gone too, the weights themselves still hold it.
    tools.live(strategy, ledger, [replace(world.request(2, 3, 4), name="request-1")])
    assert np.array_equal(strategy.holds(request.sample_ids)["weights"], request.sample_ids)
    assert "masks" not in strategy.holds(request.sample_ids)
    assert strategy.foresee(world.request(0)) == "none"
    again = world.strategy(exssnet, repair="none", erase=False)
    again.load_state_dict(strategy.state_dict())
    assert digest(again.state_dict()) == digest(strategy.state_dict())
    assert np.array_equal(again.holds(request.sample_ids)["weights"], request.sample_ids)


def test_the_last_task_is_not_deleted_exactly_if_its_weights_stay(world: World, tools: Any) -> None:
    strategy, request = (
        life(world, exssnet, tools, world.plan.experiences, repair="none", erase=False),
        world.request(4),
    )
    assert strategy.foresee(request) == "none"
    assert world.strategy(supsup, repair="none").foresee(request) == "bits"


@pytest.mark.parametrize("unit", [0, 2])
def test_private_weights_make_any_deletion_exact_and_free(unit: int, world: World, tools: Any) -> None:
    strategy, ledger = world.strategy(exssnet, keep="private"), world.ledger()
    assert drift(strategy, world, tools) == 0.0
    accuracies = [world.accuracy(strategy, u) for u in range(5)]
    assert min(accuracies) > 0.8
    assert torch.equal(strategy._canvas.weights, strategy._canvas.initial())
    canvas = strategy._canvas
    for net in strategy._nets.values():
        initial = canvas.weights[canvas.mask_of(net)]
        assert net.values is not None
        assert (net.values != initial).float().mean() > 0.5, "the whole mask is trained"
        assert net.num_bytes() == -(-len(canvas) // 8) + 4 * int(canvas.mask_of(net).sum())
    request = world.request(unit)
    assert all(strategy.dependents((u,)) == [] for u in range(5))
    assert strategy.foresee(request) == "bits"
    ledger = world.ledger()
    for experience in world.plan.experiences:
        ledger.admit(experience)
    ledger.delete(request)
    outcome = strategy.forget(request, ledger.door(strategy.access, NONE, request.sample_ids))
    assert (outcome.exactness, outcome.steps) == ("bits", 0)
    clean = life(world, exssnet, tools, without(world, unit), keep="private")
    assert digest(strategy.state_dict()) == digest(clean.state_dict())
    assert strategy.holds(request.sample_ids) == {}


def test_a_first_task_is_the_same_with_private_weights(world: World, tools: Any) -> None:
    """The two ways part only where there is something to read or to leave alone."""
    shared, private = (life(world, exssnet, tools, world.plan.experiences[:2], keep=k) for k in ("shared", "private"))
    assert same(logits(shared, world, [0]), logits(private, world, [0]))
    assert not same(logits(shared, world, [1]), logits(private, world, [1]))


def mentions(state: Any, units: list[int]) -> bool:
    if isinstance(state, dict):
        return any(mentions(v, units) for v in state.values())
    return isinstance(state, list) and (state == units or any(mentions(v, units) for v in state))


@pytest.mark.parametrize(
    ("module", "repair"),
    [
        (exssnet, "cascade"),
        *(pytest.param(m, "cascade", marks=pytest.mark.nightly) for m in (supsup, ssnet)),
        *(pytest.param(m, "none", marks=pytest.mark.nightly) for m in (supsup, ssnet, exssnet)),
    ],
)
def test_nothing_of_a_deleted_task_is_left(module: ModuleType, repair: str, world: World, tools: Any) -> None:
    """Masks, scores, records, what the model wears, and all tensors that are reachable: nobody keeps them."""
    strategy, ledger = world.strategy(module, repair=repair, kkt="best"), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences)
    logits(strategy, world, [1])  # the last that was worn
    assert mentions(strategy.state_dict(), [1])
    net = strategy._nets[(1,)]
    gone = [weakref.ref(t) for t in (net.bits, net.scores)]
    mask, owner = strategy._canvas.mask_of(net), strategy._owner
    tools.live(strategy, ledger, [world.request(1)])
    assert not mentions(strategy.state_dict(), [1])
    assert (1,) not in strategy._nets
    assert strategy._canvas.lens.shown == (None, None)
    del net
    gc.collect()
    assert all(tensor() is None for tensor in gone), "somebody still holds its mask or its scores"
    initial, weights = strategy._canvas.initial(), strategy._canvas.weights
    if module is exssnet:
        free = (owner == 2) & (strategy._owner == 0)
        assert bool(free.any())
        assert torch.equal(weights[free], initial[free])
    elif module is supsup:
        assert torch.equal(weights, initial)
    else:
        others = torch.stack([strategy._canvas.mask_of(n) for n in strategy._nets.values()]).any(0)
        assert torch.equal(weights[mask & ~others], initial[mask & ~others])


@pytest.mark.nightly
def test_some_samples_of_a_task(world: World, tools: Any) -> None:
    """The task is learned again on the rest, and so is what came later; a life without them ends in the same bits."""
    ids = world.plan.experiences[1].sample_ids[::3]
    request = world.request(1, ids=ids)
    rest = [
        replace(e, sample_ids=np.setdiff1d(e.sample_ids, ids)) if e.units == (1,) else e for e in world.plan.experiences
    ]
    for module in (supsup, exssnet, ssnet):
        deleted = life(world, module, tools, [*world.plan.experiences, request])
        assert digest(deleted.state_dict()) == digest(life(world, module, tools, rest).state_dict()), module.__name__


@pytest.mark.nightly
def test_ssnet_is_exact_only_from_the_start(world: World, tools: Any) -> None:
    request = world.request(3)
    strategy, ledger = world.strategy(ssnet, repair="none"), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences)
    assert set(strategy.dependents((3,))) == {(0,), (1,), (2,), (4,)}, "earlier ones compute with what it overwrote"
    assert strategy.foresee(request) == "none"
    clean = life(world, ssnet, tools, without(world, 3))
    deleted = life(world, ssnet, tools, [*world.plan.experiences, request])
    assert digest(deleted.state_dict()) == digest(clean.state_dict())


@pytest.mark.nightly
def test_kkt_repairs_descendants_only(digits: Source, tools: Any) -> None:
    world = World(noisy_copy(digits))
    options = {"kkt": "best", "kkt_share": 1.0}
    parent, unrelated = world.request(0), world.request(1)
    for request, gone in ((parent, 0), (unrelated, 1)):
        strategy, ledger = world.strategy(supsup, **options, repair="none"), world.ledger()
        tools.live(strategy, ledger, world.plan.experiences[:4])
        descends = (gone,) in {u for net in strategy._nets.values() for u in net.reads}
        assert strategy.foresee(request) == ("none" if descends else "bits")
        tools.live(strategy, ledger, [request])
        clean = life(world, supsup, tools, [e for e in world.plan.experiences[:4] if e.units != (gone,)], **options)
        assert (digest(strategy.state_dict()) == digest(clean.state_dict())) == (not descends)
        repaired = life(world, supsup, tools, [*world.plan.experiences[:4], request], **options)
        assert digest(repaired.state_dict()) == digest(clean.state_dict())


def test_a_task_that_comes_again_goes_on_from_its_mask(digits: Source, tools: Any) -> None:
    """In chunks, interleaved: others stay to the bit, and a deletion is still exact."""
    world = World(five_tasks(digits), epochs=2)
    chunks = [
        replace(world.plan.experiences[u], name=f"chunk-{u}-{k}", sample_ids=world.plan.experiences[u].sample_ids[k::3])
        for k in range(3)
        for u in range(2)
    ]
    for module in (exssnet, supsup):
        strategy, ledger = world.strategy(module), world.ledger()
        for chunk in chunks:
            (other,) = {0, 1} - {chunk.units[0]}
            before = logits(strategy, world, [other])
            tools.live(strategy, ledger, [chunk])
            assert same(logits(strategy, world, [other]), before)
        assert min(world.accuracy(strategy, u) for u in range(2)) > 0.75
        request = world.request(1, ids=np.sort(np.concatenate([chunks[1].sample_ids, chunks[3].sample_ids[::2]])))
        tools.live(strategy, ledger, [request])
        rest = [replace(c, sample_ids=np.setdiff1d(c.sample_ids, request.sample_ids)) for c in chunks]
        clean = life(world, module, tools, [c for c in rest if len(c.sample_ids)])
        assert digest(strategy.state_dict()) == digest(clean.state_dict()), module.__name__


# --- other streams and models ---


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive in this process, shared storage counted once."""
    gc.collect()
    found = (o.untyped_storage() for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
    return sum({s.data_ptr(): s.nbytes() for s in found}.values())


@pytest.mark.nightly
def test_switching_tasks_copies_no_weights(digits: Source, tools: Any) -> None:
    world = World(five_tasks(digits), hidden=(600, 300), epochs=1)
    strategy, plain = life(world, exssnet, tools, world.plan.experiences[:3]), world.setting.make_model()
    plain.train(False)
    canvas, x = strategy._canvas, torch.rand(256, 64)
    ids = np.arange(256)
    batches = [Batch(ids, x, torch.zeros(256, dtype=torch.int64), torch.full((256,), t)) for t in range(3)]
    places = {p.data_ptr() for p in canvas.model.network.parameters()}
    version, held = canvas.version, tensor_bytes()
    for batch in batches:
        strategy.predict(batch)
    assert canvas.version == version, "nothing has been written to any weight"
    assert {p.data_ptr() for p in canvas.model.network.parameters()} == places
    assert min(places) == canvas.weights.data_ptr(), "the model's own parameters are the shared weights"
    assert tensor_bytes() == held, "nothing has been kept"
    canvas.wear(strategy._nets[(0,)])
    assert canvas.lens.shown[0] is strategy._nets[(0,)].bits, "a mask is put on by pointing at it"

    def seconds(work: Any) -> float:
        started = time.process_time()
        for _ in range(10):
            work()
        return time.process_time() - started

    @torch.inference_mode()
    def forward() -> None:
        for _ in batches:
            plain(x)

    rounds = []
    for _ in range(7):
        other = seconds(lambda: [strategy.predict(batch) for batch in batches])
        alike = seconds(lambda: [strategy.predict(batches[0]) for _ in batches])
        rounds.append((other / alike, other / seconds(forward)))
    switching, whole = np.median(rounds, axis=0)
    assert switching < 1.25, "another task each time costs what the same costs"
    assert whole < 2.5, "and masking within the forward pass is a fraction of it"


@pytest.mark.nightly
def test_a_hundred_tasks(digits: Source, tools: Any) -> None:
    config = domain_incremental.Config(domains=100, task_labels=True)
    world = World(domain_incremental.build(digits, config, 0), hidden=(60,), epochs=1)
    before = tensor_bytes()
    plain = world.setting.make_model()
    one = tensor_bytes() - before
    assert one == num_bytes(plain.parameters), "a gradient is there only while it is needed"
    before = tensor_bytes()
    strategy = world.strategy(exssnet, density=0.05)
    assert drift(strategy, world, tools) == 0.0
    held = tensor_bytes() - before
    state = strategy.state_dict()
    parameters = len(strategy._canvas)
    assert all(e["bits"].numel() == -(-parameters // 8) for e in state["subnetworks"])
    masks = 100 * -(-parameters // 8)
    assert num_bytes(state) <= 1.3 * 4 * parameters + masks, "what is saved"
    assert held <= 1.3 * one + masks, "and what is kept in memory: there is no second vector of weights"
    mean = np.mean([world.accuracy(strategy, u) for u in range(100)])
    assert mean > 0.5, "one pass, 200 weights of 4,440; chance is 0.1"


def test_the_surest_subnetwork_answers_without_task_labels(digits: Source, tools: Any) -> None:
    world = World(class_incremental.build(digits, class_incremental.Config(experiences=5), 0), epochs=6)
    strategy = life(world, exssnet, tools, world.plan.experiences, density=0.2)
    assert np.mean([world.accuracy(strategy, u) for u in range(5)]) > 0.3, "chance is 0.1"


def test_slopes_answer_sample_by_sample(digits: Source, tools: Any) -> None:
    world = World(class_incremental.build(digits, class_incremental.Config(experiences=5), 0), epochs=2)
    batch = world.held_out_of(0).part(0, 6)
    for how, signal in (("one-shot", "entropy"), ("binary", "entropy"), ("one-shot", "superfluous")):
        strategy = life(world, supsup, tools, world.plan.experiences, inference=how, signal=signal, outputs=40)
        together = strategy.predict(batch)
        with torch.inference_mode():
            alone = torch.cat([strategy.predict(batch.part(i, i + 1)) for i in range(6)])
        finite = together.isfinite()
        assert torch.equal(finite, alone.isfinite())
        assert finite.sum() == 12, "each sample has the outputs of one task"
        torch.testing.assert_close(together[finite], alone[finite])


@pytest.mark.parametrize(("how", "looks"), [("one-shot", 1), ("binary", 3)])
def test_how_often_a_mask_is_looked_for(
    how: str, looks: int, digits: Source, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five masks, in one look at the slopes, or by halves in three."""
    world = World(class_incremental.build(digits, class_incremental.Config(experiences=5), 0), epochs=1, batch=200)
    strategy, count = life(world, supsup, tools, world.plan.experiences, inference=how), 0

    def counted(*args: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return slopes_of(*args)

    monkeypatch.setattr(_answers, "slopes_of", counted)
    strategy.predict(world.held_out_of(0).part(0, 2))
    assert count == 2 * looks


def test_each_stage_has_epochs_and_a_rate_of_its_own(world: World, tools: Any) -> None:
    """Scores that hardly move choose what they chose at first; weights that hardly move stay."""
    samples = len(world.plan.experiences[0].sample_ids)
    per_epoch = -(-samples // 32)
    start = world.strategy(exssnet)
    first_choice = initial_scores(
        start._canvas.layers, Key(0) / "fit" / world.plan.experiences[0].name / 0 / "scores", start._canvas.device
    )
    first_mask = choose(first_choice, start._canvas.spans_of(world.plan.experiences[0].units))
    masks, weights = [], []
    for options in ({"mask_lr": 1e-12, "weight_epochs": 3}, {"weight_lr": 1e-12, "mask_epochs": 4}):
        strategy, ledger = world.strategy(exssnet, **options), world.ledger()
        outcome = step(strategy, world.plan.experiences[0], ledger).outcome
        assert outcome.steps == per_epoch * (options.get("mask_epochs", 2) + options.get("weight_epochs", 2))
        masks.append(strategy._canvas.mask_of(strategy._nets[world.plan.experiences[0].units]))
        weights.append(strategy._canvas.weights.clone())
    assert torch.equal(masks[0], first_mask)
    assert not torch.equal(masks[1], first_mask)
    initial = start._canvas.weights
    assert float((weights[0] - initial).abs().max()) > 1e-3
    assert float((weights[1] - initial).abs().max()) < 1e-9


def test_looking_on_changes_nothing(world: World, tools: Any) -> None:
    for module in (supsup, exssnet):
        quiet = life(world, module, tools, world.plan.experiences[:3])
        strategy, seen = world.strategy(module), []

        def look(step: int, strategy: Any = strategy, seen: list[torch.Tensor] = seen) -> None:
            seen.append(strategy.predict(world.held_out_of(0)))

        with observed(look):
            tools.live(strategy, world.ledger(), world.plan.experiences[:3])
        assert digest(strategy.state_dict()) == digest(quiet.state_dict())
        assert len(seen) > 50
        assert torch.equal(seen[-1], quiet.predict(world.held_out_of(0)))


def image_world(build: Any, digits: Source, size: int, repeat: int) -> World:
    """Digits as images, on a model made of convolutions or attention."""
    kept = np.concatenate([np.flatnonzero(digits.class_ids == c)[:40] for c in range(4)])
    kept.sort()
    columns = {n: getattr(digits, n)[kept] for n in ("y", "class_ids", "user_ids", "is_test")}
    x = digits.x[kept].view(-1, 1, 8, 8).repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)[..., :size, :size]
    source = replace(digits, x=x.contiguous(), **columns)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    world = World(replace(plan, source=source), epochs=3)

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            return FlatModel(build((1, size, size), 10))

    world.setting = replace(world.setting, make_model=make_model)
    return world


@pytest.mark.parametrize("kind", ["lenet", pytest.param("resnet-18", marks=pytest.mark.nightly), "vit-tiny"])
def test_any_model_of_linear_and_convolution_layers(kind: str, digits: Source, tools: Any) -> None:
    builds = {
        "lenet": (lambda s, n: lenet.build(lenet.Config(), s, n), 24, 3),
        "resnet-18": (lambda s, n: resnet_18.build(resnet_18.Config(width=4), s, n), 8, 1),
        "vit-tiny": (lambda s, n: vit_tiny.build(vit_tiny.Config(patch=4, width=16, depth=2, heads=2), s, n), 8, 1),
    }
    build, size, repeat = builds[kind]
    world = image_world(build, digits, size, repeat)
    strategy, ledger = world.strategy(exssnet, density=0.3), world.ledger()
    tools.live(strategy, ledger, world.plan.experiences[:1])
    before = logits(strategy, world, [0])
    tools.live(strategy, ledger, world.plan.experiences[1:])
    assert same(logits(strategy, world, [0]), before)
    names = {layer.name for layer in strategy._canvas.layers}
    assert "head" in names
    assert len(names) == {"lenet": 5, "resnet-18": 21, "vit-tiny": 14}[kind]
    statistics = [net.buffers for net in strategy._nets.values()]
    if kind == "resnet-18":
        assert not torch.equal(statistics[0][0], statistics[1][0]), "every task has its own running statistics"
        assert not any("bn" in n for n, _ in strategy._canvas.model.network.named_parameters())
    clean = life(world, exssnet, tools, world.plan.experiences[1:], density=0.3)
    deleted = life(world, exssnet, tools, [*world.plan.experiences, world.request(0)], density=0.3)
    assert digest(deleted.state_dict()) == digest(clean.state_dict())


@pytest.mark.parametrize("outputs", [None, 10])
def test_superfluous_outputs_have_a_share_in_the_softmax(outputs: int | None, world: World) -> None:
    """A subnetwork is trained against all outputs that it has, and not only against those of its classes."""
    canvas = world.strategy(supsup, outputs=outputs)._canvas
    objective, batch = canvas.objective_of((1,)), world.held_out_of(1)
    own = torch.randn(len(batch), outputs or 2, generator=Key(0).torch(), requires_grad=True)
    losses = objective.losses(objective.widen(own, batch), batch)
    labels = torch.searchsorted(torch.tensor(world.plan.units[1].classes), batch.y)
    assert torch.allclose(losses, nn.functional.cross_entropy(own, labels, reduction="none"), atol=1e-5)
    (slope,) = torch.autograd.grad(losses.sum(), own)
    assert bool((slope.abs() > 0).all())


def test_too_few_outputs_are_refused(world: World, tools: Any) -> None:
    with pytest.raises(ConfigError, match=r"1 are too few for the 2 classes.*or leave it null"):
        world.strategy(supsup, outputs=1)
    with pytest.raises(ConfigError, match=r"2 are too few for the 2 classes of one experience and 1 superfluous"):
        world.strategy(supsup, outputs=2, inference="binary", signal="superfluous")
    both = replace(world.plan.experiences[0], units=(0, 1), sample_ids=world.plan.experiences[1].sample_ids)
    with pytest.raises(ConfigError, match="2 are too few for the 4 classes"):
        tools.live(world.strategy(supsup, outputs=2), world.ledger(), [both])


def test_options_that_contradict_each_other_are_refused(world: World) -> None:
    for module, options, message in (
        (supsup, {"signal": "superfluous"}, "no use with inference: enumerate"),
        (supsup, {"signal": "superfluous", "inference": "one-shot"}, "outputs: signal: superfluous needs more outputs"),
        (exssnet, {"erase": False}, "set repair: none"),
        (ssnet, {"erase": False, "repair": "cascade"}, "set repair: none"),
    ):
        with pytest.raises(ConfigError, match=message):
            world.strategy(module, **options)
    world.setting, setting = replace(world.setting, objective=Classification(10, loss="bce")), world.setting
    with pytest.raises(ConfigError, match="superfluous outputs need the softmax"):
        world.strategy(supsup, outputs=20)
    world.setting = replace(setting, objective=Regression())
    with pytest.raises(ConfigError, match="only classifiers can have more outputs"):
        world.strategy(supsup, outputs=20)
    world.setting = setting


@pytest.mark.slow
def test_training_exclusive_weights_helps_at_low_density(digits: Source, tools: Any) -> None:
    gains = []
    for seed in range(3):
        world = World(five_tasks(digits), epochs=30, seed=seed)
        means = [
            np.mean([world.accuracy(s, u) for u in range(5)])
            for s in (life(world, m, tools, world.plan.experiences, density=0.02) for m in (exssnet, supsup))
        ]
        gains.append(means[0] - means[1])
    assert np.mean(gains) >= 0.02, gains


@pytest.mark.slow
def test_tasks_are_inferred_from_sixteen_inputs(digits: Source, tools: Any) -> None:
    """Permuted digits: binary search works on random weights, the opposite sign does not; trained weights need all."""
    plan = domain_incremental.build(digits, domain_incremental.Config(domains=10), 0)
    world = World(plan, hidden=(256, 128), epochs=10)
    ledger = world.ledger()

    def share(strategy: Any, find: Any) -> float:
        units = list(strategy._nets)
        hits = []
        for unit in range(10):
            x = ledger.lend(plan.units[unit].test_ids).all().x
            hits += [units[find(strategy, units, part)] == (unit,) for part in x[:320].split(16)]
        return float(np.mean(hits))

    def by_slopes(sign: float, how: Any, signal: Any = entropy) -> Any:
        def find(strategy: Any, units: Any, x: torch.Tensor) -> int:
            canvas = strategy._canvas
            masks = [positions_of(strategy._nets[u].bits, len(canvas)) for u in units]
            canvas.model.train(False)

            def slopes(c: torch.Tensor) -> torch.Tensor:
                return sign * slopes_of(canvas.model, canvas.lens, masks, c, x, signal)

            return how(slopes, len(units))

        return find

    def by_trying(strategy: Any, units: Any, x: torch.Tensor) -> int:
        means = []
        for u in units:
            strategy._canvas.wear(strategy._nets[u])
            means.append(float(entropy(strategy._canvas.model(x)[:, :100].detach()).mean()))
        return int(np.argmin(means))

    masks = life(world, supsup, tools, plan.experiences, density=0.3, outputs=100)
    assert share(masks, by_slopes(1, binary)) >= 0.9
    assert share(masks, by_slopes(-1, one_shot)) <= 0.2
    assert share(masks, by_slopes(-1, binary)) <= 0.2
    assert share(masks, by_slopes(1, one_shot, lambda logits: superfluous(logits, 10))) >= 0.5
    # The longer and faster weights are trained, the surer every subnetwork is of what it has never seen.
    trained = life(world, exssnet, tools, plan.experiences, density=0.3, outputs=100, weight_lr=1e-3, weight_epochs=4)
    assert share(trained, by_trying) >= 0.85
