"""PALL: what is frozen stays, what is reset is what nobody else uses, and its exactness is as far as it goes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from lives import TaskLife
from torch import nn
from torch.nn import functional as F

from lifelong.verification.replay import altered, live
from strategies.isolated.pall import Config, Pall, _Threshold, kept
from strategies.parts.model import digest
from strategies.step import step
from streams.errors import ConfigError, RequestError
from streams.events import DeletionRequest, Experience
from streams.ledger import Ledger
from streams.randomness import Key
from streams.scenarios import task_incremental
from streams.timeline import surviving

SPARSITY = 0.6


def new_life(*forget: tuple[int, int], **options: Any) -> TaskLife[Pall]:
    config = Config.model_validate({"sparsity": SPARSITY, "memory": 60, "steps": 10} | options)
    return TaskLife(lambda setting: Pall(config, setting), forget, hidden=[32, 32], epochs=8)


life_of = functools.cache(new_life)


def test_masks_have_the_density_and_weights_stay() -> None:
    life = life_of()
    after = [life.until(n)[0] for n in (1, 2, 3)]
    for task in after[2]._tasks:
        for name in after[2]._layers:
            own = after[2]._view(task.mask, name)
            assert abs(int(own.sum()) - (1 - SPARSITY) * own.numel()) <= 1
    first, second = after[0]._tasks[0], after[1]._tasks[1]
    rows = after[0]._rows((0,))
    for strategy in after[1:]:
        assert torch.equal(strategy._tasks[0].mask, first.mask)
        held = first.mask | rows
        assert torch.equal(strategy._model.parameters[held], after[0]._model.parameters[held])
        assert torch.equal(life.outputs(strategy, 0), life.outputs(after[0], 0))
    assert bool((first.mask & second.mask).any()), "no forward reuse"
    assert min(life.accuracy(after[2], t) for t in range(3)) > 0.75


def test_free_weights_are_those_of_the_tasks_that_are_held() -> None:
    strategy, _ = life_of().until(2)
    free = strategy._free_weights()
    fresh = strategy._draw(strategy._free_key())
    assert torch.equal(strategy._model.parameters[free], fresh[free])
    biases = [n for n in strategy._shapes if n.startswith("body.") and n.endswith("bias")]
    assert all(not strategy._view(strategy._model.parameters, n).any() for n in biases)


def test_forgetting_the_last_task_is_exact_and_leaves_the_others_alone() -> None:
    life = life_of((3, 2))
    before, _ = life.until(3)
    strategy, steps = life.until()
    outcome = steps[-1].outcome
    assert outcome.exactness == "bits"
    assert (outcome.steps, steps[-1].samples_read) == (0, 0)
    for task in (0, 1):
        assert torch.equal(life.outputs(strategy, task), life.outputs(before, task))
    events, gone = life.stream.events, life.stream.requests[0].sample_ids
    state = digest(strategy.state_dict())
    assert live(life.build, altered(life.stream, gone, Key(0)), events).digest == state
    assert live(life.build, life.stream, surviving(events)).digest == state
    assert strategy.holds(gone) == {}


def test_forgetting_an_earlier_task_is_not_exact_and_says_so() -> None:
    """Later tasks were trained through its weights: masks, heads and stored outputs keep what came of it."""
    life = life_of((3, 0))
    strategy, steps = life.until()
    gone = life.stream.requests[0].sample_ids
    assert steps[-1].outcome.exactness == "none"
    assert steps[-1].outcome.steps == 10
    assert np.array_equal(strategy.holds(gone)["weights"], gone)
    other, _ = life.on(altered(life.stream, gone, Key(0))).until()
    assert any(not torch.equal(a.mask, b.mask) for a, b in zip(strategy._tasks, other._tasks, strict=True))
    assert any(not torch.equal(a.outputs, b.outputs) for a, b in zip(strategy._tasks, other._tasks, strict=True))
    rows = strategy._rows((1, 2))
    assert not torch.equal(strategy._model.parameters[rows], other._model.parameters[rows])
    # Its own weights are gone all the same.
    untouched = strategy._free_weights() & other._free_weights()
    assert torch.equal(strategy._model.parameters[untouched], other._model.parameters[untouched])


def test_a_repair_of_no_steps_trains_nothing() -> None:
    config = Config.model_validate({"sparsity": SPARSITY, "memory": 60, "steps": 0})
    life = TaskLife(lambda setting: Pall(config, setting), [(3, 0)], hidden=[8], epochs=1)
    _, steps = life.until()
    assert (steps[-1].outcome.exactness, steps[-1].outcome.steps) == ("none", 0)


def test_only_shared_weights_are_repaired() -> None:
    life = life_of((3, 0))
    before, _ = life.until(3)
    after, steps = life.until()
    one, two, three = (t.mask for t in before._tasks)
    tune = one & (two | three)
    changed = before._model.parameters != after._model.parameters
    assert bool(changed[tune].any())
    assert not bool(changed[(two | three) & ~tune].any())
    assert len(after._tuned) == 1
    assert torch.equal(after._tuned[0][0], tune)
    assert steps[-1].samples_read == 2 * 20
    assert min(life.accuracy(after, t) for t in (1, 2)) > 0.7


def test_what_was_repaired_with_a_tasks_help_is_reset_with_it() -> None:
    """Forget 0 while 1 and 2 are there, then 2: there is a leak where 1's weights were tuned with 2's memory."""
    life = life_of((3, 0), (3, 2))
    after_one, _ = life.until(4)
    one, two = after_one._tasks
    leak = one.mask & two.mask & after_one._tuned[0][0]
    assert bool(leak.any())
    after, steps = life.until()
    assert steps[-1].outcome.exactness == "none"
    assert steps[-1].outcome.steps == 10
    changed = after._model.parameters != after_one._model.parameters
    assert bool(changed[leak].all())
    assert not bool(changed[one.mask & ~leak].any())
    clean, steps = life_of((3, 2)).until()
    assert clean._tuned == []


def test_nothing_is_left_of_everything() -> None:
    life = life_of((3, 0), (3, 1), (3, 2))
    strategy, _ = life.until()
    assert digest(strategy.state_dict()) == digest(life.build().state_dict())


def test_parts_of_tasks_are_refused() -> None:
    life = life_of((3, 0))
    strategy, ledger = life.build(), Ledger(life.stream.source, life.stream.task_of)
    step(strategy, life.stream.events[0], ledger)
    (request,) = life.stream.requests[0].requests
    some = DeletionRequest("request-0", (type(request)("sample", (), request.sample_ids[:4], request.barred_ids, 1),))
    with pytest.raises(RequestError, match="4 of the"):
        step(strategy, some, ledger)


def test_scores_get_the_gradient_of_their_mask() -> None:
    scores = torch.tensor([[0.1, -0.9], [0.3, 0.2]], requires_grad=True)
    mask = _Threshold.apply(scores, 0.5)
    assert mask.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    (mask * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert int(kept(torch.arange(1.0, 102.0), 0.8).sum()) == 21


def test_stored_outputs_stay_with_their_samples_when_memories_shrink(tools: Any) -> None:
    """Where more tasks come than there are units, each keeps a smaller share of what it kept."""
    source = tools.source(num_classes=4, per_class=16)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    setting = tools.setting(source, plan, batch_size=16)
    strategy, ledger = Pall(Config(sparsity=0.5, memory=24), setting), Ledger(source, plan.task_of)
    first, again = plan.experiences[0].sample_ids[::2], plan.experiences[0].sample_ids[1::2]
    shown: dict[int, torch.Tensor] = {}
    sizes = []
    for name, ids, units in [("a", first, (0,)), ("b", plan.experiences[1].sample_ids, (1,)), ("c", again, (0,))]:
        step(strategy, Experience(name, units, ids), ledger)
        newest = strategy._tasks[-1]
        shown |= dict(zip(newest.memory.tolist(), newest.outputs, strict=True))
        sizes.append([len(task.memory) for task in strategy._tasks])
        for task in strategy._tasks:
            for i, outputs in zip(task.memory.tolist(), task.outputs, strict=True):
                assert torch.equal(outputs, shown[i])
    assert sizes == [[12], [12, 12], [8, 8, 8]]
    kept_ids = [set(task.memory.tolist()) for task in strategy._tasks]
    assert kept_ids[0] != set(sorted(i for i in shown if i in first)[:8]), "not simply the first ones"


def test_what_a_repair_minimises_by_hand(tools: Any) -> None:
    """The mean over tasks of alpha MSE to the stored outputs + beta CE, each through the weights of its mask."""
    source = tools.source(num_classes=4, per_class=16)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    setting = tools.setting(source, plan)
    strategy, ledger = Pall(Config(sparsity=0.5, memory=16, alpha=0.3, beta=0.7), setting), Ledger(source, plan.task_of)
    for experience in plan.experiences:
        step(strategy, experience, ledger)
    strategy._model.parameters.mul_(1.5)  # so that outputs are no longer those that are stored
    expected, model = [], setting.make_model()
    for number, task in enumerate(strategy._tasks):
        model.load_state_dict(strategy._model.state_dict())
        model.parameters[strategy._body & ~task.mask] = 0.0
        columns, ids = list(plan.units[number].classes), task.memory
        outputs = model(source.x[ids])[:, columns]
        squared = F.mse_loss(outputs, task.outputs[:, columns])
        expected.append(0.3 * squared + 0.7 * F.cross_entropy(outputs, source.y[ids] - columns[0]))
        assert float(squared.detach()) > 1e-3
    found = strategy._rehearsed([ledger.lend(task.memory).all() for task in strategy._tasks])
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_weight_decay_shrinks_the_weights_that_are_trained(tools: Any) -> None:
    """One step with and without: the difference is lr x decay x what the weights were."""
    source = tools.source(num_classes=4, per_class=16)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    ends = []
    for decay in (0.0, 0.25):
        setting = tools.setting(source, plan, epochs=1, batch_size=100, lr=0.1, weight_decay=decay)
        strategy = Pall(Config(sparsity=0.5), setting)
        start = strategy._model.parameters.clone()
        step(strategy, plan.experiences[0], Ledger(source, plan.task_of))
        ends.append(strategy._model.parameters.clone())
    (task,) = strategy._tasks
    trained = task.mask | strategy._rows((0,))
    assert torch.allclose((ends[1] - ends[0])[trained], -0.1 * 0.25 * start[trained], atol=1e-6)
    assert int(trained.sum()) > 20


def test_norms_keep_no_running_statistics(tools: Any) -> None:
    from strategies.parts.model import FlatModel, Network

    def make() -> FlatModel:
        body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
        return FlatModel(Network(body, nn.Linear(16, 10)))

    life = new_life((3, 0))
    object.__setattr__(life.setting, "make_model", make)
    strategy, _ = life.until(1)
    assert dict(strategy._model.network.named_buffers()) == {}
    norm = strategy._model.network.body[1]
    assert torch.equal(norm.weight, torch.ones(16))


def test_a_model_without_a_body_is_refused() -> None:
    """A linear classifier has nothing that a mask could be about."""
    with pytest.raises(ConfigError, match="pall gives every task a mask over the weights of the body"):
        TaskLife(lambda setting: Pall(Config(), setting), (), hidden=[], epochs=1).until(0)
