"""CLPU-DER++: exact because nothing temporary ever reaches the permanent model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lifelong.config.run import RunConfig, StrategyConfig
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.verification.replay import altered, live
from strategies.isolated.clpu_der import ClpuDer, Config
from strategies.parts.memory.buffers import keep_uniform
from strategies.parts.model import digest, num_bytes
from strategies.step import ledger_after, restore, step
from streams.config import parse
from streams.errors import ConfigError, RequestError
from streams.ledger import Ledger
from streams.randomness import Key
from streams.scenarios import task_incremental
from streams.timeline import surviving

RUN: dict[str, Any] = {
    "source": "digits",
    "scenario": {"name": "task-incremental", "experiences": 5},
    "schedule": {"name": "published", "sequence": "clpu"},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 32, "lr": 0.1},
    "strategies": {"clpu": {"isolated": {"name": "clpu-der", "memory": 40}}},
}


class Life:
    """CLPU's own sequence on digits: P0 T1 T2 P3 C1 U2 T4 U4."""

    def __init__(self, **options: Any) -> None:
        self.config = parse(RunConfig, RUN)
        self.stream = make_stream(self.config, make_source(self.config))
        self.setting = make_setting(self.config, self.stream)
        self.options = Config.model_validate({"memory": 40} | options)

    def build(self) -> ClpuDer:
        return ClpuDer(self.options, self.setting)

    def until(self, count: int) -> tuple[ClpuDer, list[Any]]:
        strategy, ledger = self.build(), Ledger(self.stream.source, self.stream.task_of)
        return strategy, [step(strategy, e, ledger) for e in self.stream.events[:count]]


@pytest.fixture(scope="module")
def life() -> Life:
    return Life()


def test_the_sequence(life: Life) -> None:
    """Main model and storage, event by event."""
    mains, sizes, sides, outcomes = [], [], [], []
    for count in range(9):
        strategy, steps = life.until(count)
        state = strategy.state_dict()
        mains.append(digest(state["main"]))
        sizes.append(num_bytes(state))
        sides.append([t["units"] for t in state["temporary"]])
        outcomes.append(steps[-1].outcome if steps else None)
    start, p0, t1, t2, p3, c1, u2, t4, u4 = range(9)
    assert sides == [[], [], [[1]], [[1], [2]], [[1], [2]], [[2]], [], [[4]], []]
    changed = [after for after in range(1, 9) if mains[after] != mains[after - 1]]
    assert changed == [p0, p3, c1]
    assert sizes[t2] - sizes[t1] == sizes[t1] - sizes[p0]
    assert sizes[u2] == sizes[u4] < sizes[t4]
    assert sizes[u2] == sizes[start] + 3 * 40 * (10 * 4 + 8)
    assert outcomes[c1].steps == outcomes[p3].steps
    assert "consolidation_drop" in outcomes[c1].notes
    assert outcomes[u2].exactness == "bits"
    assert (outcomes[u2].steps, outcomes[u2].forward) == (0, 0)


def test_forgetting_equals_never_seeing(life: Life) -> None:
    """Against other data, and against a life without the task, at both requests and in every bit."""
    events = life.stream.events
    for count in (6, 8):
        gone = events[count - 1].sample_ids
        strategy, _ = life.until(count)
        assert strategy.holds(gone) == {}
        assert not np.isin(strategy.stored_ids(), gone).any()
        whole = digest(strategy.state_dict())
        other = altered(life.stream, gone, Key(0))
        assert live(life.build, other, events[:count]).digest == whole
        assert live(life.build, life.stream, surviving(events[:count])).digest == whole
    permanent = altered(life.stream, events[0].sample_ids, Key(0))
    assert live(life.build, permanent, events[:6]).digest != live(life.build, life.stream, events[:6]).digest


def test_a_deleted_task_is_answered_by_the_main_model(life: Life) -> None:
    """No relapse through the deleted route: what is said of the task changes only with the main model."""
    data = Ledger(life.stream.source, life.stream.task_of).lend(life.stream.units[2].test_ids).all()
    after, _ = life.until(6)
    without = life.build()
    ledger = Ledger(life.stream.source, life.stream.task_of)
    for event in surviving(life.stream.events[:6]):
        step(without, event, ledger)
    assert torch.equal(after.predict(data), without.predict(data))
    later, _ = life.until(8)
    assert torch.equal(after.predict(data), later.predict(data))


def test_learning_again_is_as_if_for_the_first_time(life: Life) -> None:
    """After a deleted task, its next incarnation is learned to the same bits as where it never came before."""
    events = life.stream.events
    again = replace(events[2], incarnation=1)
    digests = []
    for past in (events[:6], surviving(events[:6])):
        strategy, ledger = life.build(), Ledger(life.stream.source, life.stream.task_of)
        for event in (*past, again):
            step(strategy, event, ledger)
        digests.append(digest(strategy.state_dict()))
    assert digests[0] == digests[1]
    first = life.until(3)[0].state_dict()["temporary"][-1]["model"]
    assert digest(first) != digest(strategy.state_dict()["temporary"][-1]["model"]), "another name, another noise"


def test_names_are_apart(life: Life) -> None:
    """Leaving out an unrelated task's events leaves everything else as it was, to the bit."""
    events = life.stream.events
    whole, _ = life.until(4)
    less, ledger = life.build(), Ledger(life.stream.source, life.stream.task_of)
    for event in (events[0], events[1], events[3]):
        step(less, event, ledger)
    mine, theirs = whole.state_dict(), less.state_dict()
    assert digest(mine["main"]) == digest(theirs["main"])
    assert digest(mine["permanent"]) == digest(theirs["permanent"])
    assert digest(mine["temporary"][0]) == digest(theirs["temporary"][0])


def test_consolidation_learns_from_the_memory_only(life: Life) -> None:
    *_, last = life.until(5)[1]
    assert last.samples_read == 40 + 2 * 40, "its own memory, and those of the two permanent tasks"
    strategy, _ = life.until(5)
    data = Ledger(life.stream.source, life.stream.task_of).lend(life.stream.units[1].test_ids).all()
    known = life.setting.objective.scores(strategy.predict(data), data).mean()
    assert float(known) > 0.7


def test_replay_counts_and_keeps_permanent_tasks(life: Life) -> None:
    _, steps = life.until(4)
    assert steps[3].samples_read == len(life.stream.events[3].sample_ids) + 40
    assert steps[1].samples_read == len(life.stream.events[1].sample_ids), "temporary tasks are learned without replay"
    samples = len(life.stream.events[3].sample_ids)
    assert steps[3].outcome.backward == 2 * samples + steps[3].outcome.steps * 32


@pytest.mark.parametrize("consolidates", [False, True])
def test_a_step_beside_permanent_tasks_by_hand(consolidates: bool, tools: Any) -> None:
    """Loss of the new task, plus the mean over permanent ones of alpha MSE + beta CE; memories smaller than a draw.

    A task that becomes permanent is learned from its memory alone, by alpha MSE + beta CE as well.
    """
    source = tools.source(num_classes=6, per_class=10)
    plan = task_incremental.build(source, task_incremental.Config(experiences=3), 0)
    setting = tools.setting(source, plan, epochs=1, batch_size=100, lr=0.5)
    strategy = ClpuDer(Config(memory=6, alpha=0.3, beta=0.7, undeclared="permanent"), setting)
    ledger = Ledger(source, plan.task_of)
    for experience in plan.experiences[:2]:
        step(strategy, experience, ledger)
    last = plan.experiences[2]
    if consolidates:
        step(strategy, replace(last, name="before", retention="temporary"), ledger)
        last = replace(last, consolidates=True)
    model, tasks = setting.make_model(), list(strategy._permanent)
    model.load_state_dict(strategy._main.state_dict())
    x, own = source.x, plan.experiences[2].sample_ids

    def cross_entropy(ids: np.ndarray, task: int) -> torch.Tensor:
        classes = list(plan.units[task].classes)
        return F.cross_entropy(model(x[ids])[:, classes], source.y[ids] - classes[0])

    def dark(task: Any, number: int) -> torch.Tensor:
        assert len(task.memory) == 6
        columns = list(plan.units[number].classes)
        squared = F.mse_loss(model(x[task.memory])[:, columns], task.outputs[:, columns])
        return 0.3 * squared + 0.7 * cross_entropy(task.memory, number)

    new = dark(strategy._temporary[0], 2) if consolidates else cross_entropy(own, 2)
    (new + (dark(tasks[0], 0) + dark(tasks[1], 1)) / 2).backward()
    step(strategy, last, ledger)
    assert torch.allclose(strategy._main.parameters, model.parameters - 0.5 * model.gradient, atol=1e-6)


@pytest.mark.parametrize("pretrain", [True, False])
def test_where_the_model_of_a_temporary_task_starts(pretrain: bool, tools: Any) -> None:
    """As a copy of the permanent one, or afresh; with a tiny learning rate it stays there."""
    source = tools.source(num_classes=4, per_class=10)
    plan = task_incremental.build(source, task_incremental.Config(experiences=2), 0)
    setting = tools.setting(source, plan, lr=1e-9)
    strategy, ledger = ClpuDer(Config(pretrain=pretrain), setting), Ledger(source, plan.task_of)
    strategy._main.parameters.mul_(2)
    step(strategy, plan.experiences[0], ledger)
    model = strategy._temporary[0].model
    assert model is not None
    expected = setting.make_model().parameters * (2 if pretrain else 1)
    assert torch.allclose(model.parameters, expected, atol=1e-6)


def test_a_resume_at_any_event_goes_on_to_the_same_bits(life: Life) -> None:
    """Also before a consolidation, which takes as many steps as the last permanent task did."""
    events, source, task_of = life.stream.events, life.stream.source, life.stream.task_of
    whole, ledger, states = life.build(), Ledger(source, task_of), []
    for event in events:
        step(whole, event, ledger)
        states.append(whole.state_dict())
    for count in range(1, len(events)):
        resumed, ledger = life.build(), ledger_after(Ledger(source, task_of), events[:count])
        restore(resumed, states[count - 1], ledger)
        step(resumed, events[count], ledger)
        assert digest(resumed.state_dict()) == digest(states[count]), count


def test_permanent_tasks_cannot_be_forgotten(life: Life) -> None:
    life_ = Life(undeclared="permanent")
    request = life.stream.requests[0]
    learned = replace(life.stream.events[2], retention=None)
    strategy, ledger = life_.build(), Ledger(life.stream.source, life.stream.task_of)
    step(strategy, learned, ledger)
    with pytest.raises(RequestError, match="learned as permanent"):
        step(strategy, request, ledger)


def test_parts_of_tasks(life: Life) -> None:
    learned, request = life.stream.events[2], life.stream.requests[0]
    some = replace(request, requests=(replace(request.requests[0], scope="sample", sample_ids=learned.sample_ids[:5]),))
    for finer in ("refuse", "coarsen"):
        strategy, ledger = Life(finer=finer).build(), Ledger(life.stream.source, life.stream.task_of)
        step(strategy, learned, ledger)
        if finer == "refuse":
            with pytest.raises(RequestError, match="5 of the .* coarsen"):
                step(strategy, some, ledger)
        else:
            outcome = step(strategy, some, ledger).outcome
            assert outcome.notes["stranded_samples"] == len(learned.sample_ids) - 5
            assert strategy.state_dict()["temporary"] == []


def test_the_memory_is_uniform() -> None:
    """Each of 60 samples is kept with frequency 20 / 60, the last one too."""
    ids, draws = np.arange(60), 3000
    counts = np.zeros(60)
    for n in range(draws):
        counts[keep_uniform(ids, 20, Key(n) / "memory")] += 1
    sigma = np.sqrt(1 / 3 * 2 / 3 / draws)
    assert np.abs(counts / draws - 1 / 3).max() < 4 * sigma


def test_stored_outputs_are_those_of_training_steps(life: Life) -> None:
    """Each was noted, for a sample of the memory, before training ended."""
    strategy, _ = life.until(1)
    (task,) = strategy._permanent
    data = Ledger(life.stream.source, life.stream.task_of).lend(task.memory).all()
    final = life.setting.objective.outputs(strategy._main, data).detach()
    own = list(life.stream.units[0].classes)
    assert bool((task.outputs[:, own] != 0).all())
    assert not torch.allclose(task.outputs[:, own], final[:, own])
    assert float((task.outputs[:, own] - final[:, own]).abs().mean()) < float(final[:, own].abs().mean())


def test_other_strategies_ignore_consolidation(life: Life) -> None:
    config = parse(RunConfig, RUN | {"strategies": {"plain": {"learner": "naive"}}})
    strategy = make_strategy(config.strategies["plain"], life.setting, "s")
    ledger = Ledger(life.stream.source, life.stream.task_of)
    states = []
    for event in life.stream.events[:5]:
        step(strategy, event, ledger)
        states.append(digest(strategy.state_dict()))
    assert states[4] == states[3]


def test_it_needs_classes(tools: Any) -> None:
    from strategies.objectives.regression import Regression

    setting = replace(tools.setting(tools.source()), objective=Regression())
    with pytest.raises(ConfigError, match="clpu-der is for models that predict classes; this one predicts numbers"):
        make_strategy(parse(StrategyConfig, {"isolated": "clpu-der"}), setting, "it")
