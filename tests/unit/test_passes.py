"""What all training shares, in the strategies that take steps of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.base import Setting, Strategy
from strategies.parts.fit import FitConfig, Training, observed
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.passes import passes
from strategies.step import step
from streams.config import parse
from streams.errors import ResourceError, TrainingError
from streams.events import Experience
from streams.ledger import Ledger
from streams.plan import Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import task_incremental
from streams.schedules import explicit
from streams.source import Source
from streams.stream import Stream

OWN_STEPS: dict[str, dict[str, Any]] = {
    "clpu-der": {"memory": 20},
    "pall": {"memory": 60, "steps": 4},
    "uncle": {"hidden": [16], "chunks": 4, "steps": 4, "floor": 2},
    "amnesiac-hat": {"memory": 20, "repair": "sequential", "steps": 4},
}
own_steps = pytest.mark.parametrize("name", OWN_STEPS)


class Hungry(nn.Module):
    """Runs out of memory on batches above `room`, which is raised and lowered by tests."""

    room = 10_000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > Hungry.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x


@pytest.fixture
def stream(digits: Source) -> Stream:
    """Three tasks of two digits; the first is to be forgotten after the third."""
    plan = task_incremental.build(digits, task_incremental.Config(experiences=5), 0)
    plan = replace(plan, experiences=plan.experiences[:3])
    requests = {"requests": [{"after": 3, "scope": "task", "keys": [0]}]}
    moves = explicit.place(plan, parse(explicit.Config, requests), Key(0))
    return assemble(plan, moves, Service(), Key(0) / "requests")


def setting_of(stream: Stream, tools: Any, **training: Any) -> Setting:
    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            return FlatModel(Network(nn.Sequential(nn.Linear(64, 12), Hungry(), nn.ReLU()), nn.Linear(12, 10)))

    options = {"lr": 0.05, "batch_size": 32} | training
    return replace(
        tools.setting(stream.source),
        make_model=make_model,
        units=stream.units,
        training=Training.model_validate(options),
    )


def strategy_of(name: str, setting: Setting) -> Strategy:
    return make_strategy(parse(StrategyConfig, {"isolated": {"name": name, **OWN_STEPS[name]}}), setting, name)


@own_steps
def test_every_step_can_be_looked_at_and_nothing_changes_by_that(name: str, stream: Stream, tools: Any) -> None:
    data = Ledger(stream.source, stream.task_of).lend(stream.source.test_ids).all()
    quiet, watched = (strategy_of(name, setting_of(stream, tools)) for _ in range(2))
    numbers: list[int] = []

    def look(number: int) -> None:
        numbers.append(number)
        watched.predict(data)

    ledgers = [Ledger(stream.source, stream.task_of) for _ in range(2)]
    for event in stream.events:
        numbers.clear()
        outcome = step(quiet, event, ledgers[0]).outcome
        with observed(look):
            step(watched, event, ledgers[1])
        assert digest(watched.state_dict()) == digest(quiet.state_dict())
        if isinstance(event, Experience):
            assert numbers == list(range(1, outcome.steps + 1))
    assert torch.equal(watched.predict(data), quiet.predict(data))


@own_steps
def test_what_is_looked_at_are_the_weights_of_the_moment(name: str, stream: Stream, tools: Any) -> None:
    strategy, ledger = strategy_of(name, setting_of(stream, tools)), Ledger(stream.source, stream.task_of)
    data, seen = ledger.lend(stream.source.test_ids).all(), []
    step(strategy, stream.events[0], ledger)
    with observed(lambda number: seen.append(strategy.predict(data))):
        step(strategy, stream.events[1], ledger)
    assert not any(torch.equal(one, other) for one, other in zip(seen, seen[1:], strict=False))


@own_steps
def test_running_out_of_memory_says_what_would_fit(
    name: str, stream: Stream, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, ledger = strategy_of(name, setting_of(stream, tools)), Ledger(stream.source, stream.task_of)
    monkeypatch.setattr(Hungry, "room", 5)
    message = "Out of memory with 32 samples at a time; 4 at a time fit when they pass the model alone"
    with pytest.raises(ResourceError, match=f"{message}: set training.batch_size"):
        step(strategy, stream.events[0], ledger)


@pytest.mark.parametrize("name", ["pall", pytest.param("amnesiac-hat", marks=pytest.mark.nightly)])
def test_so_does_a_repair(name: str, stream: Stream, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, ledger = strategy_of(name, setting_of(stream, tools)), Ledger(stream.source, stream.task_of)
    for event in stream.events[:3]:
        step(strategy, event, ledger)
    monkeypatch.setattr(Hungry, "room", 5)
    with pytest.raises(ResourceError, match="4 at a time fit"):
        step(strategy, stream.events[3], ledger)


@own_steps
def test_divergence_is_an_error_that_names_the_learning_rate(name: str, stream: Stream, tools: Any) -> None:
    strategy = strategy_of(name, setting_of(stream, tools, lr=1e38, epochs=2))
    with pytest.raises(TrainingError, match=r"Lower training\.lr \(now 1e\+38\)"):
        step(strategy, stream.events[0], Ledger(stream.source, stream.task_of))


def test_each_thing_that_a_step_moves_is_clipped_by_a_norm_of_its_own(tools: Any) -> None:
    model = tools.mlp((5, 8, 4))
    with passes(model, FitConfig(clip_norm=0.5), Key(0), lambda size: torch.zeros(())) as steps:
        long, short = torch.full((4,), 3.0), torch.full((4,), 0.1)
        torch.testing.assert_close(steps.clip(long).norm(), torch.tensor(0.5))
        assert torch.equal(steps.clip(short), torch.full((4,), 0.1))
    with passes(model, FitConfig(), Key(0), lambda size: torch.zeros(())) as steps:
        assert torch.equal(steps.clip(torch.full((4,), 3.0)), torch.full((4,), 3.0))


def test_the_loss_is_the_mean_over_the_samples_of_the_last_epoch(tools: Any) -> None:
    model, data = tools.mlp((5, 8, 4)), tools.lend(tools.source())
    with passes(model, FitConfig(epochs=2, batch_size=10), Key(0), lambda size: torch.zeros(())) as steps:
        for batch in steps.over(data, Key(1)):  # of 24 samples: 10, 10 and 4, twice
            steps.samples += len(batch)
            steps.done(torch.tensor(float(steps.number)))
    outcome = steps.outcome(model.parameters)
    assert (outcome.steps, outcome.forward, outcome.backward) == (6, 48, 48)
    assert outcome.losses == {"loss": pytest.approx((10 * 3 + 10 * 4 + 4 * 5) / 24)}
