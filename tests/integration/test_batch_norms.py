"""Unlearners on a model with batch norms: what becomes of running statistics, in which the deleted data is, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.base import Unlearner
from strategies.composed import Composed
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel, Network
from strategies.step import step
from streams.config import parse
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.registry import class_of, entries, load
from streams.source import Source

NONE = np.array([], dtype=np.int64)
MORE: dict[str, dict[str, Any]] = {"amnesiac": {"repair": True}, "prune-first": {"sparsity": 0.2}}


def having(option: str) -> list[str]:
    """Return the unlearners of classifiers with an option."""
    modules = {n: load("unlearners", n) for n in entries("unlearners")}
    mine = [n for n, m in modules.items() if option in m.Config.model_fields]
    return [n for n in mine if "classes" in class_of(modules[n], Unlearner).supports]


class Life:
    """A strategy that has learned three classes, and forgets the first."""

    def __init__(self, source: Source, tools: Any, name: str, **options: Any) -> None:
        def make_model() -> FlatModel:
            with seeded_globals(Key(0) / "init"):
                first: nn.Module = nn.Linear(5, 8)
                if class_of(load("unlearners", name), Unlearner).needs_convolutions:
                    first = nn.Sequential(
                        nn.Unflatten(1, (1, 5, 1)), nn.Conv2d(1, 8, 1), nn.AvgPool2d((5, 1)), nn.Flatten()
                    )
                body = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU())
                return FlatModel(Network(body, nn.Linear(8, 3)))

        self.source = source
        setting = replace(tools.setting(source, lr=0.05, batch_size=16), make_model=make_model)
        cheap = dict(class_of(load("unlearners", name), Unlearner).test_options)
        unlearner = {"name": name, **cheap, **MORE.get(name, {}), **options}
        learner = ["naive", "update-log"] if name == "amnesiac" else "naive"
        strategy = make_strategy(parse(StrategyConfig, {"learner": learner, "unlearner": unlearner}), setting, "it")
        assert isinstance(strategy, Composed)
        self.strategy, self.ledger = strategy, Ledger(source)
        step(strategy, Experience("all", (), source.train_ids), self.ledger)
        self.before = self.buffers()

    def buffers(self) -> list[torch.Tensor]:
        return [b.clone() for b in self.strategy.learner.model.network.buffers()]

    def forget(self) -> Outcome:
        gone = np.flatnonzero((self.source.class_ids == 0) & ~self.source.is_test)
        return step(
            self.strategy, DeletionRequest("request-0", (Request("class", (0,), gone, NONE, 1),)), self.ledger
        ).outcome


@pytest.fixture(scope="module")
def source(tools: Any) -> Any:
    return tools.source(num_classes=3, per_class=20)


@pytest.mark.parametrize("name", having("recalibrate"))
def test_recalibrated_statistics_are_of_the_retained_data_alone(name: str, source: Source, tools: Any) -> None:
    means = {}
    for recalibrate in (False, True):
        life = Life(source, tools, name, recalibrate=recalibrate, batch_size=100)
        life.forget()
        network = life.strategy.learner.model.network
        inner = network.body[0](life.ledger.lend(life.ledger.live_ids).all().x).detach()
        means[recalibrate] = float((network.body[1].running_mean - inner.mean(0)).abs().max())
    rounded = 1e-3 if name == "prmq" else 1e-4  # it ends in half precision
    assert means[True] < rounded < means[False]


@pytest.mark.parametrize("name", having("on_divergence"))
def test_a_request_that_diverges_leaves_the_statistics_as_they_were(name: str, source: Source, tools: Any) -> None:
    life = Life(source, tools, name, on_divergence="restore", lr=1e30, epochs=3)
    weights = life.strategy.learner.model.parameters.clone()
    assert life.forget().losses["diverged"] == 1
    assert torch.equal(life.strategy.learner.model.parameters, weights)
    assert all(torch.equal(a, b) for a, b in zip(life.buffers(), life.before, strict=True))


def test_a_task_vector_takes_no_statistics_along(source: Source, tools: Any) -> None:
    life = Life(source, tools, "task-vector")
    life.forget()
    assert all(torch.equal(a, b) for a, b in zip(life.buffers(), life.before, strict=True))


def test_boundary_expand_takes_weights_and_statistics_from_the_wider_network(source: Source, tools: Any) -> None:
    life = Life(source, tools, "boundary-expand", batch_size=10)
    steps = life.forget().steps
    assert steps == 2
    assert int(life.buffers()[2]) == int(life.before[2]) + steps
    assert not torch.equal(life.buffers()[0], life.before[0])
