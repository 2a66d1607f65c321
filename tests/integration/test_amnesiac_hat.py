"""AmnesiacHAT: what tasks use is frozen, a request takes a change back, and exactness goes as far as it says."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lives import TaskLife
from torch import nn

from lifelong.models import lenet, resnet_18
from lifelong.verification.replay import altered, live
from strategies.isolated._hard_attention import MaskedChain, annealed, compensation
from strategies.isolated.amnesiac_hat import AmnesiacHAT, Config, _Lesson
from strategies.objectives.regression import Regression
from strategies.parts.model import FlatModel, Network, digest
from strategies.step import step
from streams.errors import ConfigError, RequestError
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.randomness import Key
from streams.scenarios import task_incremental
from streams.timeline import surviving


@functools.cache
def life_of(*forget: tuple[int, int], **options: Any) -> TaskLife[AmnesiacHAT]:
    config = Config.model_validate({"memory": 20, "steps": 10} | options)
    return TaskLife(lambda setting: AmnesiacHAT(config, setting), forget, hidden=[48, 48], epochs=5)


def now(strategy: AmnesiacHAT) -> torch.Tensor:
    return strategy.weights(strategy._tasks)


def test_hat_freezes_what_tasks_use_and_adahat_nearly_does() -> None:
    life = life_of(architecture="hat")
    one, two, three = (life.until(n)[0] for n in (1, 2, 3))
    for earlier, later in ((one, two), (two, three)):
        taken = earlier._chain.on_weights(torch.stack([t.mask for t in earlier._tasks]).amax(0)) > 0
        assert torch.equal(now(later)[taken], now(earlier)[taken]), "momentum or weight decay moved a frozen weight"
        assert not torch.equal(now(later)[~taken], now(earlier)[~taken])
    for task, before in ((0, one), (0, two), (1, two)):
        assert torch.equal(life.outputs(three, task), life.outputs(before, task))
    assert min(life.accuracy(three, t) for t in range(3)) > 0.6
    assert all(0 < float(t.mask.mean()) < 1 for t in three._tasks)
    soft = life_of(architecture="adahat").until(2)[0]
    taken = soft._chain.on_weights(soft._tasks[0].mask) > 0
    moved = soft._tasks[1].update.abs()
    assert 0 < float(moved[taken].max()) < 0.01 * float(moved[~taken].max())


def test_weights_are_the_start_plus_the_changes() -> None:
    strategy, _ = life_of().until(3)
    total = strategy._initial.clone()
    for task in strategy._tasks:
        total += task.update
    assert torch.equal(total, now(strategy))
    strategy._mount()
    assert torch.equal(strategy._model.parameters[: strategy._chain.size], total)


@pytest.mark.parametrize("architecture", ["hat", pytest.param("adahat", marks=pytest.mark.nightly)])
def test_forgetting_the_last_task_is_exact_and_costs_nothing(architecture: str) -> None:
    life = life_of((3, 2), architecture=architecture, repair="joint")
    before, _ = life.until(2)
    strategy, steps = life.until()
    assert (steps[-1].outcome.exactness, steps[-1].outcome.steps, steps[-1].samples_read) == ("bits", 0, 0)
    assert digest(strategy.state_dict()) == digest(before.state_dict())
    events, gone = life.stream.events, life.stream.requests[0].sample_ids
    assert live(life.build, altered(life.stream, gone, Key(0)), events).digest == digest(strategy.state_dict())
    assert strategy.holds(gone) == {}


@pytest.mark.nightly
def test_forgetting_an_earlier_task_is_not_exact_and_says_so() -> None:
    """Non-interference fails: masks, heads, changes and stored outputs of later tasks keep what came of it."""
    life = life_of((3, 0))
    strategy, steps = life.until()
    gone = life.stream.requests[0].sample_ids
    assert steps[-1].outcome.exactness == "none"
    assert np.array_equal(strategy.holds(gone)["weights"], gone)
    assert not np.isin(strategy.stored_ids(), gone).any()
    assert all(life.stream.events[0].name not in name for t in strategy._tasks for name in t.backups)
    theirs, _ = life.on(altered(life.stream, gone, Key(0))).until()
    for mine, its in zip(strategy._tasks, theirs._tasks, strict=True):
        assert not torch.equal(mine.update, its.update)
        assert not torch.equal(mine.head, its.head)
        assert not torch.equal(mine.outputs, its.outputs)
    without = live(life.build, life.stream, surviving(life.stream.events))
    assert without.digest != digest(strategy.state_dict())


@pytest.mark.nightly
def test_shared_weights_come_from_the_backup_and_no_others() -> None:
    life, plain = life_of((3, 0)), life_of((3, 0), compensate="none")
    before, _ = life.until(3)
    after, steps = life.until()
    bare, _ = plain.until()
    one, two, three = before._tasks
    # Without backups: exactly the other changes, added up.
    assert torch.equal(now(bare), before.weights([two, three]))
    assert torch.equal(bare._base, bare._initial)
    expected = now(bare).clone()
    for task in (two, three):
        where = before._shared(task, one)
        assert bool(where.any()), "nothing is shared"
        assert task.backups[one.name].shape == (int(where.sum()),)
        expected[where] = task.backups[one.name]
    torch.testing.assert_close(now(after), expected, rtol=1e-5, atol=1e-6)
    untouched = ~(before._shared(two, one) | before._shared(three, one))
    torch.testing.assert_close(now(after)[untouched], now(bare)[untouched], rtol=1e-5, atol=1e-6)
    assert (steps[-1].outcome.steps, steps[-1].samples_read) == (0, 0)
    turned, _ = life_of((3, 0), compensate="reverse").until()
    both = before._shared(two, one) & before._shared(three, one)
    difference = now(turned) != now(after)
    assert bool(difference[both].any())
    assert not bool((difference & ~both).any())
    assert min(life.accuracy(after, t) for t in (1, 2)) > min(plain.accuracy(bare, t) for t in (1, 2)) - 0.1


def test_backups_begin_before_the_task_or_without_it() -> None:
    """They differ in what tasks in between have changed; neither has the task's own change."""
    for start in ("before", "delete"):
        life = life_of(start=start)
        learned, _ = life.until(2)
        one, two = learned._tasks
        ledger = Ledger(life.stream.source, life.stream.task_of)
        for event in life.stream.events[:2]:
            ledger.admit(event)
        third = ledger.admit(life.stream.events[2])
        lesson = _Lesson(learned, third, ledger.door(learned.access, third.sample_ids))
        expected = [[], [one]] if start == "before" else [[two], [one]]
        for backup, tasks in zip(lesson._backups, expected, strict=True):
            assert torch.equal(backup, learned.weights(tasks))


def test_the_window_limits_backups() -> None:
    strategy, _ = life_of(window=1).until(3)
    first, second, third = strategy._tasks
    assert [list(t.backups) for t in (first, second, third)] == [[], [first.name], [second.name]], "the last ones"
    strategy, _ = life_of(window=0).until(2)
    assert [len(t.backups) for t in strategy._tasks] == [0, 0]


@pytest.mark.nightly
@pytest.mark.parametrize("repair", ["joint", "sequential", "sequential-adahat"])
def test_repair_moves_shared_weights_only(repair: str) -> None:
    life, plain = life_of((3, 0), repair=repair, window=0), life_of((3, 0), window=0)
    before, _ = life.until(3)
    after, steps = life.until()
    bare, _ = plain.until()
    one, two, three = before._tasks
    may = before._shared(two, one) | before._shared(three, one)
    if repair == "joint":  # both ends in the forgotten mask, and in that of one or the other
        may = before._chain.on_weights(torch.minimum(one.mask, torch.maximum(two.mask, three.mask))) > 0
    moved = (now(after) - now(bare)).abs()
    assert float(moved[may].max()) > 1e-4
    torch.testing.assert_close(now(after)[~may], now(bare)[~may], rtol=1e-5, atol=1e-6)
    assert steps[-1].outcome.steps == (10 if repair == "joint" else 20)
    assert steps[-1].samples_read == 40, "the memories of both that are left"
    assert [torch.equal(a.head, b.head) for a, b in zip(after._tasks, bare._tasks, strict=True)] == [True, True]
    # The repair stays, and derives from tasks that may be forgotten later.
    assert np.isin(three.ids, after._base_ids).all()


def test_what_was_repaired_with_a_tasks_help_keeps_it() -> None:
    life = life_of((3, 0), (3, 2), repair="joint")
    strategy, steps = life.until()
    gone = life.stream.requests[1].sample_ids
    assert steps[-1].outcome.exactness == "none"
    assert np.array_equal(strategy.holds(gone)["weights"], gone)


def test_nothing_is_left_of_everything() -> None:
    life = life_of((3, 0), (3, 1), (3, 2), repair="joint")
    strategy, _ = life.until()
    assert digest(strategy.state_dict()) == digest(life.build().state_dict())


def test_replay_reads_the_memories_of_earlier_tasks() -> None:
    life = life_of(window=0)
    strategy, steps = life.until()
    assert [len(t.memory) for t in strategy._tasks] == [20, 20, 20]
    sizes = [len(e.sample_ids) for e in life.stream.experiences]
    assert [s.samples_read for s in steps] == [sizes[0], sizes[1] + 20, sizes[2] + 40]
    assert steps[1].outcome.backward == 5 * sizes[1] + steps[1].outcome.steps * 20
    bare, silent = life_of(window=0, alpha=0, beta=0).until(2)
    assert silent[1].samples_read == sizes[1]
    assert torch.equal(bare._tasks[0].update, strategy._tasks[0].update)
    assert not torch.allclose(bare._tasks[1].update, strategy._tasks[1].update, atol=1e-3), "it is trained on"


def test_what_replay_minimises_by_hand() -> None:
    """The mean over samples of alpha MSE to the stored outputs + beta CE, each through its task's units and head."""
    life = life_of(window=0, alpha=0.3, beta=0.7)
    strategy, _ = life.until(2)
    ledger, source = Ledger(life.stream.source, life.stream.task_of), life.stream.source
    for event in life.stream.events[:2]:
        ledger.admit(event)
    strategy._mount()
    strategy._model.parameters.mul_(1.2)  # so that outputs are no longer those that are stored
    terms = []
    for number, task in enumerate(strategy._tasks):
        columns = list(life.stream.units[number].classes)
        outputs = strategy.answer(task, source.x[task.memory])[:, columns]
        squared = (outputs - task.outputs[:, columns]).square().mean(1)
        labels = torch.searchsorted(torch.tensor(columns), source.y[task.memory])
        terms.append(0.3 * squared + 0.7 * nn.functional.cross_entropy(outputs, labels, reduction="none"))
    memories = np.sort(np.concatenate([t.memory for t in strategy._tasks]))
    found = strategy.dark(ledger.lend(memories).all(), strategy._tasks)
    torch.testing.assert_close(found, torch.cat(terms).mean())


def test_gates_harden_in_every_epoch(monkeypatch: pytest.MonkeyPatch, tools: Any) -> None:
    from strategies.isolated import amnesiac_hat

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(amnesiac_hat, "annealed", lambda *a: asked.append(a[:2]) or annealed(*a))
    source = tools.source(num_classes=4, per_class=12)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    setting = tools.setting(source, plan, epochs=3, batch_size=8)
    step(AmnesiacHAT(Config(), setting), plan.experiences[0], Ledger(source, plan.task_of))
    assert asked == [(0, 3), (1, 3), (2, 3)] * 3


def test_weight_decay_shrinks_weights(tools: Any) -> None:
    """One step with and without: the difference is lr x decay x what the weights were."""
    source = tools.source(num_classes=4, per_class=12)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    ends = []
    for decay in (0.0, 0.25):
        setting = tools.setting(source, plan, epochs=1, batch_size=100, lr=0.1, weight_decay=decay)
        strategy = AmnesiacHAT(Config(), setting)
        step(strategy, plan.experiences[0], Ledger(source, plan.task_of))
        ends.append(strategy._tasks[0].update)
    start = setting.make_model().parameters[: strategy._chain.size]
    assert torch.allclose(ends[1] - ends[0], -0.1 * 0.25 * start, atol=1e-6)


def test_sparsity_closes_gates(tools: Any) -> None:
    source = tools.source(num_classes=4, per_class=12)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    opened = []
    for sparsity in (0.0, 2.0):
        strategy = AmnesiacHAT(Config(sparsity=sparsity), tools.setting(source, plan, epochs=20, hidden=32))
        step(strategy, plan.experiences[0], Ledger(source, plan.task_of))
        opened.append(float(strategy._tasks[0].mask.mean()))
    assert 0 < opened[1] < 0.7 * opened[0]


def test_what_does_not_fit_is_refused() -> None:
    life = life_of((3, 0))
    with pytest.raises(ConfigError, match="predicts numbers and is no ClassObjective"):
        AmnesiacHAT(Config(), replace(life.setting, objective=Regression()))

    def model(body: nn.Module, head: nn.Module | None = None) -> FlatModel:
        return FlatModel(Network(body, head or nn.Linear(8, 10)))

    bodies: list[tuple[nn.Module, str]] = [
        (nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8)), "the model has a BatchNorm1d with weights of its own"),
        (nn.Sequential(nn.Flatten()), "needs a hidden layer"),
        (nn.Linear(64, 8), "chain of layers .* the model has a Linear"),
        (resnet_18.build(resnet_18.Config(width=2), (1, 8, 8), 10).body, "with weights of its own"),
    ]
    for body, message in bodies:
        with pytest.raises(ConfigError, match=message):
            AmnesiacHAT(Config(), replace(life.setting, make_model=lambda body=body: model(body)))
    head = nn.Sequential(nn.Linear(8, 10))
    with pytest.raises(ConfigError, match="needs a linear head"):
        AmnesiacHAT(Config(), replace(life.setting, make_model=lambda: model(nn.Linear(64, 8), head)))
    strategy, ledger = life.build(), Ledger(life.stream.source, life.stream.task_of)
    step(strategy, life.stream.events[0], ledger)
    (request,) = life.stream.requests[0].requests
    some = DeletionRequest("request-0", (type(request)("sample", (), request.sample_ids[:4], request.barred_ids, 1),))
    with pytest.raises(RequestError, match="4 of the"):
        step(strategy, some, ledger)


def chain_of_lenet() -> tuple[FlatModel, MaskedChain]:
    model = FlatModel(lenet.build(lenet.Config(), (1, 20, 20), 3))
    return model, MaskedChain(model, "test")


def test_a_weight_is_as_protected_as_the_less_protected_of_its_ends() -> None:
    model, chain = chain_of_lenet()
    units = torch.rand(chain.num_units, generator=torch.Generator().manual_seed(0))
    found = chain.on_weights(units)
    assert [x.units.stop - x.units.start for x in chain.layers] == [6, 16, 120, 84]
    first, second, third, _ = chain.layers
    a, b, c = (units[x.units] for x in (first, second, third))
    assert torch.equal(found[second.weight].view(16, 6, 5, 5)[3, 4], torch.minimum(b[3], a[4]).expand(5, 5))
    assert torch.equal(found[first.weight].view(6, -1), a.view(6, 1).expand(6, 25))
    # Sixteen channels of 3 x 3 pixels, flattened: nine inputs belong to each channel.
    wide = found[third.weight].view(120, 144)
    assert torch.equal(wide[7], torch.minimum(c[7], b.repeat_interleave(9)))
    assert second.bias is not None
    assert torch.equal(found[second.bias], b)
    assert chain.size + 84 * 3 + 3 == len(model.parameters)


def test_masked_units_are_silent_and_routes_use_other_weights() -> None:
    model, chain = chain_of_lenet()
    x = torch.rand(4, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    everything = torch.ones(chain.num_units)
    features, _ = chain.run(x, everything)
    torch.testing.assert_close(features, model.features(x))
    gates = everything.clone()
    gates[chain.layers[-1].units] = 0.0
    assert not bool(chain.run(x, gates)[0].any())
    weights = torch.randn(chain.size, generator=torch.Generator().manual_seed(2)) * 0.1
    none, some = torch.zeros(chain.num_units), everything.clone()
    _, (same, other) = chain.run(x, everything, [(weights, none), (weights, some)])
    torch.testing.assert_close(same, features)
    model.parameters[: chain.size] = weights
    torch.testing.assert_close(other, model.features(x))


def test_gates_and_their_gradients() -> None:
    e = torch.tensor([-3.0, 0.1, 2.0], dtype=torch.float64, requires_grad=True)
    for slope in (0.01, 1.0, 8.0):
        (found,) = torch.autograd.grad(torch.sigmoid(slope * e).sum(), e)
        torch.testing.assert_close(
            found * compensation(e.detach(), slope, 20.0, 50.0),
            20.0 * torch.autograd.grad(torch.sigmoid(e).sum(), e)[0],  # as if the slope had been one, times s_max
        )
    assert [annealed(b, 5, 400.0) for b in (0, 4)] == [1 / 400, 400.0]
    model, chain = chain_of_lenet()
    gates, taken = torch.full((chain.num_units,), 0.5), torch.zeros(chain.num_units)
    taken[chain.layers[0].units] = 1.0
    share, by_layer = chain.occupied(gates, taken)
    assert float(share) == pytest.approx(0.5)
    assert [round(float(s), 3) for s in by_layer] == [0.0, 0.5, 0.5, 0.5]
    assert float(chain.occupied(gates, torch.ones(chain.num_units))[0]) == 0.0
