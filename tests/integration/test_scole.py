"""Knowledge accumulates over long streams of recurring classes (SCoLe, arXiv 2207.04543), in small on real digits."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lifelong.config.run import RunConfig, StrategyConfig
from lifelong.setup.build import make_strategy
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import prepare
from strategies.base import Setting
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.learners import naive
from strategies.objectives.classification import Classification
from strategies.parts.fit import Training, fit
from strategies.parts.model import FlatModel, Network
from strategies.step import step
from strategies.unlearners import none
from streams.config import parse
from streams.data import Data
from streams.events import Event, Experience
from streams.ledger import Ledger
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental, joint, recurring
from streams.source import Source


@dataclass(frozen=True)
class Lived:
    """What came of a life: accuracy of every class after every task, and which classes each task had."""

    accuracy: np.ndarray
    taught: list[tuple[int, ...]]

    def mean(self, start: int, stop: int) -> float:
        """Mean accuracy over all classes and the tasks from `start` up to `stop`."""
        return float(self.accuracy[start:stop].mean())

    def retention(self, start: int, stop: int) -> list[float]:
        """Mean accuracy of classes that came 0, 1, 2, 3 and at least 4 tasks ago."""
        found: list[list[float]] = [[] for _ in range(5)]
        last = np.full(self.accuracy.shape[1], -1)
        for task, classes in enumerate(self.taught):
            last[list(classes)] = task
            for c in np.flatnonzero(last >= 0):
                if start <= task < stop:
                    found[min(task - last[c], 4)].append(self.accuracy[task, c])
        return [float(np.mean(f)) for f in found]


def network(seed: int) -> FlatModel:
    with seeded_globals(Key(seed) / "init"):
        body = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU())
        return FlatModel(Network(body, nn.Linear(100, 10)))


def live(source: Source, plan: Plan, events: tuple[Event, ...], seed: int, mask: Any, **training: Any) -> Lived:
    options = {"epochs": 1, "batch_size": 8, "lr": 0.01, "clip_norm": 10.0} | training
    objective = Classification(10, mask=mask)
    setting = Setting(
        Key(seed), lambda: network(seed), objective, Training.model_validate(options), plan.units, len(source)
    )
    learner = SGDLearner(setting, lambda: [("naive", naive.Naive(naive.Config(), setting))])
    strategy = Composed(learner, none.NoUnlearning(none.Config(), setting))
    ledger, test = Ledger(source), source.test_ids
    data = Data(test, source.x, source.y, None).all()
    classes = source.class_ids[test]
    size = np.bincount(classes, minlength=10)
    accuracy, taught = [], []
    for event in events:
        if isinstance(event, Experience):
            admitted = ledger.admit(event)
            if len(admitted.sample_ids):
                door = ledger.door(strategy.access, admitted.sample_ids)
                strategy.learn(admitted, door)
            taught.append(tuple(np.unique(source.class_ids[admitted.sample_ids]).tolist()))
            scores = objective.scores(strategy.predict(data), data).numpy()
            accuracy.append(np.bincount(classes, scores, minlength=10) / size)
        else:
            ledger.delete(event)
            strategy.forget(event, ledger.door(strategy.access, event.sample_ids[:0], event.sample_ids))
    return Lived(np.array(accuracy), taught)


@functools.cache
def digits_source() -> Source:
    from streams.sources import digits

    return digits.load(digits.Config())


@functools.cache
def accumulate(mask: str = "none", momentum: float = 0.0, tasks: int = 110, seed: int = 0, **training: Any) -> Lived:
    plan = recurring.build(digits_source(), recurring.Config(tasks=tasks), seed)
    return live(digits_source(), plan, plan.experiences, seed, mask, momentum=momentum, **training)


# -------------------------------------------------------------------------------------------------- masks (3, 4)


def test_absent_classes_get_no_gradient_under_the_mask() -> None:
    source = digits_source()
    rows = np.flatnonzero(np.isin(source.class_ids, (3, 7)) & ~source.is_test)[:32]
    data = Data(rows, source.x, source.y, None)
    batch = data.all()
    masked = network(0)
    objective = Classification(10, mask="batch").training_on(data)
    objective.losses(objective.outputs(masked, batch), batch).mean().backward()
    absent = [c for c in range(10) if c not in (3, 7)]
    head = masked.gradient[masked.slices["head.weight"]].view(10, 100)
    bias = masked.gradient[masked.slices["head.bias"]]
    assert head[absent].abs().sum() == 0
    assert bias[absent].abs().sum() == 0
    assert bool((head[[3, 7]] != 0).any())
    plain = network(0)
    F.cross_entropy(plain(batch.x), batch.y).backward()
    expected = plain(batch.x).softmax(1).mean(0)
    assert torch.allclose(plain.gradient[plain.slices["head.bias"]][absent], expected[absent], atol=1e-6)


def test_a_batch_of_one_class_moves_nothing_under_the_mask() -> None:
    source = digits_source()
    rows = np.flatnonzero((source.class_ids == 3) & ~source.is_test)[:16]
    model = network(0)
    before = model.parameters.clone()
    training = Training(epochs=1, batch_size=8, lr=0.1)
    fit(model, Classification(10, mask="batch"), Data(rows, source.x, source.y, None), training, Key(0))
    assert torch.equal(model.parameters, before)


def test_evaluation_is_unmasked() -> None:
    source, model = digits_source(), network(0)
    rows = np.flatnonzero((source.class_ids == 3) & source.is_test)
    batch = Data(rows, source.x, source.y, None).all()
    objective = Classification(10, mask="batch")
    model.parameters[model.slices["head.bias"]][5] += 100.0
    assert objective.scores(objective.outputs(model, batch), batch).sum() == 0


# ----------------------------------------------------------------------------------------- optimizer persistence (5)


@pytest.mark.parametrize("carry", [True, False])
def test_moments_live_on_if_they_are_carried(carry: bool) -> None:
    plan = recurring.build(digits_source(), recurring.Config(tasks=3), 0)
    options = {"batch_size": 64, "lr": 1e-3, "optimizer": "adam"}
    kept = live(digits_source(), plan, plan.experiences, 0, "none", carry_optimizer=carry, **options)
    fresh = live(digits_source(), plan, plan.experiences, 0, "none", **options)
    assert np.array_equal(kept.accuracy[0], fresh.accuracy[0])
    assert np.array_equal(kept.accuracy, fresh.accuracy) != carry


# --------------------------------------------------------------------------------------- accumulation (6, 8, 9)


@pytest.mark.nightly  # a study of seven seconds
def test_knowledge_accumulates_though_every_task_forgets() -> None:
    plain, masked, fast = accumulate(), accumulate("batch"), accumulate(momentum=0.9)
    assert plain.mean(0, 10) < 0.2
    assert plain.mean(90, 110) >= 0.5
    assert masked.mean(40, 60) - plain.mean(40, 60) >= 0.12, "masking helps, long before the end"
    assert plain.mean(90, 110) - fast.mean(90, 110) >= 0.2, "momentum harms where tasks have many steps"


def test_the_same_training_forgets_when_tasks_never_come_back() -> None:
    plan = class_incremental.build(digits_source(), class_incremental.Config(experiences=5), 0)
    for epochs in (1, 10):
        lived = live(digits_source(), plan, plan.experiences, 0, "none", epochs=epochs)
        assert 0.1 <= lived.accuracy[-1].mean() <= 0.45


@pytest.mark.nightly  # a study of five seconds
def test_accumulation_shows_as_retention_that_grows() -> None:
    plain, masked = accumulate(), accumulate("batch")
    early, late = plain.retention(0, 37), plain.retention(74, 110)
    assert early[0] > 0.6
    assert max(early[2:]) < 0.1, "at first a class is gone two tasks later"
    assert late[2] > 0.4
    assert all(a >= b - 0.03 for a, b in zip(late[:-1], late[1:], strict=True))
    assert masked.retention(37, 74)[0] - masked.retention(37, 74)[1] < 0.1, "masking removes forgetting at lag 1"
    assert plain.retention(37, 74)[0] - plain.retention(37, 74)[1] > 0.3
    assert masked.retention(0, 37)[0] < plain.retention(0, 37)[0], "at the price of learning less at once"


# -------------------------------------------------------------------------------------- phases, deletions (2, 11)


@pytest.mark.nightly  # a study of four seconds
def test_classes_that_stop_coming_decay_by_themselves() -> None:
    """Hence a deletion must be held against the life in which the class merely stopped (withheld)."""
    plan = recurring.build(digits_source(), recurring.Config(tasks=220, phases="forgetting"), 0)
    lived = live(digits_source(), plan, plan.experiences, 0, "none")
    kept, gone = lived.accuracy[:, :5].mean(1), lived.accuracy[:, 5:].mean(1)
    assert all(max(t) < 5 for t in lived.taught[111:])
    before, after = slice(100, 111), slice(200, 220)
    assert kept[after].mean() > kept[before].mean() + 0.1
    assert gone[before].mean() > 0.4
    assert gone[after].mean() < gone[before].mean() - 0.25


def test_a_deletion_changes_nothing_before_it() -> None:
    plan = recurring.build(digits_source(), recurring.Config(tasks=30), 0)
    scheduled = [Learn(i) for i in range(30)]
    first = plan.experiences[0].units[0]
    deleted = assemble(plan, [*scheduled[:10], RequestSpec("class", (first,)), *scheduled[10:]], Service(), Key(0))
    with_it = live(digits_source(), plan, deleted.events, 0, "none")
    without = live(digits_source(), plan, plan.experiences, 0, "none")
    assert np.array_equal(with_it.accuracy[:10], without.accuracy[:10])
    assert not np.array_equal(with_it.accuracy[10:], without.accuracy[10:])
    assert all(first not in t for t in with_it.taught[10:])
    assert any(first in t for t in without.taught[10:])


# --------------------------------------------------------------------------------------------------- iid (12)


@pytest.mark.nightly
def test_one_task_of_all_classes_is_training_at_once() -> None:
    source = digits_source()
    once = recurring.build(source, recurring.Config(tasks=1, classes_per_task=10), 0)
    at_once = joint.build(source, joint.Config(), 0)
    assert np.array_equal(once.experiences[0].sample_ids, at_once.experiences[0].sample_ids)
    lived = live(source, once, once.experiences, 0, "none", epochs=20, lr=0.05)
    assert lived.accuracy[-1].mean() > 0.9


# ------------------------------------------------------------------------------------------------------ long (7)


@pytest.mark.slow
def test_accumulation_over_300_tasks() -> None:
    def end(mask: str = "none", **training: Any) -> float:
        runs = [accumulate(mask, tasks=300, seed=s, **training).mean(270, 300) for s in (0, 1)]
        return float(np.mean(runs))

    assert end() > 0.84
    assert end("batch") > 0.86
    assert end(momentum=0.9) < 0.6
    assert end("batch", momentum=0.9) > 0.9, "masking removes the harm of momentum"
    adam = {"optimizer": "adam", "lr": 1e-3, "batch_size": 8}
    assert end("batch", carry_optimizer=True, **adam) > end("batch", **adam) - 0.02
    assert end(carry_optimizer=True, **adam) > 0.9


def test_ascent_forgets_a_class_alone_under_a_mask() -> None:
    """All samples of a request may be of one class; under the mask of a batch nothing would push against it."""
    config = parse(
        RunConfig,
        {
            "scenario": {"name": "recurring", "tasks": 30, "classes_per_task": 3},
            "schedule": {"name": "explicit", "requests": [{"after": 30, "scope": "class", "keys": [3]}]},
            "objective": {"name": "classification", "mask": "batch"},
            "model": {"name": "mlp", "hidden": [50]},
            "training": {"lr": 0.05, "batch_size": 16},
            "evaluation": {"probe": 0},
            "references": {"kinds": []},
        },
    )
    prepared = prepare(config)
    choice = parse(StrategyConfig, {"unlearner": {"name": "gradient-ascent", "lr": 0.01}})
    strategy = make_strategy(choice, prepared.setting, "strategy")
    ledger, accuracies = Ledger(prepared.stream.source), []
    evaluator = make_instruments(config.evaluation, prepared.stream, prepared.plan, prepared.setting, "cpu").evaluator
    for event in prepared.stream.events:
        step(strategy, event, ledger)
        accuracies.append(evaluator.evaluate(strategy).scores[prepared.stream.source.y[prepared.plan.ids] == 3].mean())
    assert accuracies[-2] > 0.5
    assert accuracies[-1] < 0.1
