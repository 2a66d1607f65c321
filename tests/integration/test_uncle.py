"""UnCLe: weights of a forgotten task collapse, those of others are held, and nothing is exact about it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_stream
from strategies.isolated.uncle import Config, Uncle, burn_in
from strategies.parts.passes import Passes, observed
from strategies.step import step
from streams.config import parse
from streams.data import Batch
from streams.errors import RequestError
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.randomness import Key


class Life:
    """Two tasks of digits, the first of which is forgotten."""

    def __init__(self, tasks: int = 2, training: dict[str, Any] | None = None, **options: Any) -> None:
        config = parse(
            RunConfig,
            {
                "scenario": {"name": "task-incremental", "experiences": 5},
                "schedule": {"name": "explicit", "requests": [{"after": tasks, "scope": "task", "keys": [0]}]},
                "model": {"name": "mlp", "hidden": [16]},
                "training": {"optimizer": "adam", "lr": 0.002, "epochs": 6, "batch_size": 32} | (training or {}),
            },
        )
        self.stream = make_stream(config, make_source(config))
        self.setting = make_setting(config, self.stream)
        small = {"hidden": [32], "chunks": 8, "code": 8, "forgotten": "keep", "preserve": 0.01}
        self.options = Config.model_validate(small | options)
        self.strategy = Uncle(self.options, self.setting)
        self.ledger = Ledger(self.stream.source, self.stream.task_of)
        for event in self.stream.events[:tasks]:
            step(self.strategy, event, self.ledger)

    def forget(self) -> Any:
        request = next(e for e in self.stream.events if isinstance(e, DeletionRequest))
        return step(self.strategy, request, self.ledger)

    def accuracy(self, task: int) -> float:
        data = self._tests(task)
        return float(self.setting.objective.scores(self.strategy.predict(data), data).mean())

    def loss(self, task: int) -> float:
        data = self._tests(task)
        return float(self.setting.objective.losses(self.strategy.predict(data), data).mean())

    def weights(self, number: int) -> torch.Tensor:
        return torch.cat([w.flatten() for w in self.strategy._weights(self.strategy._tasks[number].code).values()])

    def _tests(self, task: int) -> Batch:
        return Ledger(self.stream.source, self.stream.task_of).lend(self.stream.units[task].test_ids).all()


def test_steps_of_requests() -> None:
    assert [burn_in(100, 20, n) for n in range(8)] == [100, 90, 81, 72, 64, 57, 51, 45]
    assert burn_in(100, 20, 40) == 20


@pytest.mark.nightly
def test_the_weights_of_a_forgotten_task_collapse() -> None:
    """Noise that is fresh in every step has mean zero, and so is what the network learns to make."""
    life = Life(steps=600, unlearn=0.1)
    loss = life.loss(0)
    assert min(life.accuracy(t) for t in (0, 1)) > 0.8
    before = life.weights(0).square().mean().sqrt()
    done = life.forget()
    after = life.weights(0).square().mean().sqrt()
    assert float(after) < 0.1
    assert float(after) < float(before)
    assert done.samples_read == 0
    assert (done.outcome.steps, done.outcome.exactness) == (600, "none")
    # No accuracy: outputs that are nearly equal can still be in the right order.
    assert loss < 0.3
    assert life.loss(0) == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.nightly
def test_noise_that_is_drawn_once_is_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: ten draws that stay the same have a mean, of root mean square 1 / sqrt(10), and that is learned."""
    life = Life(steps=600, unlearn=0.1)
    honest = Key.torch
    names = life.strategy._names / life.stream.requests[0].name
    monkeypatch.setattr(Key, "torch", lambda key: honest(names if key.path[: len(names.path)] == names.path else key))
    life.forget()
    assert 0.2 < float(life.weights(0).square().mean().sqrt()) < 0.4


def test_holding_the_others_holds_them() -> None:
    moved = []
    for preserve in (0.0, 1.0):
        life = Life(steps=100, unlearn=0.1)
        object.__setattr__(life.strategy, "_config", life.options.model_copy(update={"preserve": preserve}))
        before = life.weights(1)
        life.forget()
        moved.append(float((life.weights(1) - before).norm()))
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize(("forgotten", "held"), [("drop", {(2,)}), ("keep", {(2,)}), ("protect", {(0,), (2,)})])
def test_who_is_held_at_a_later_request(forgotten: str, held: set, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tasks=3, steps=2, forgotten=forgotten, training={"epochs": 1})
    life.forget()
    seen: list[set[tuple[int, ...]]] = []
    change = Uncle._change

    def noted(self: Uncle, tasks: Any, before: Any, chunks: torch.Tensor) -> torch.Tensor:
        seen.append({t.units for t in tasks})
        return change(self, tasks, before, chunks)

    monkeypatch.setattr(Uncle, "_change", noted)
    (request,) = life.stream.requests[0].requests
    ids = life.stream.experiences[1].sample_ids
    step(life.strategy, DeletionRequest("again", (type(request)("task", (1,), ids, ids[:0], 3),)), life.ledger)
    assert seen == [held] * 2


def test_the_hold_is_a_mean_over_tasks() -> None:
    strategy = Life(tasks=2, training={"epochs": 1}).strategy
    tasks, zeros = strategy._tasks, {n: torch.zeros(s) for n, s in strategy._shapes.items()}
    with torch.no_grad():
        each = [float(strategy._change([t], [zeros], strategy._chunks)) for t in tasks]
        assert float(strategy._change(tasks, [zeros] * 2, strategy._chunks)) == pytest.approx(sum(each) / 2)
        assert float(strategy._change([], [], strategy._chunks)) == 0.0


def test_a_single_task_can_be_forgotten() -> None:
    life = Life(tasks=1, steps=20)
    life.forget()
    assert bool(life.strategy._hyper.parameters.isfinite().all())


def test_chunk_codes_are_trained_in_the_first_task_only() -> None:
    chunks = [Life(tasks=n).strategy._chunks for n in (1, 2)]
    start = Uncle(Life(tasks=1).options, Life(tasks=1).setting)._chunks
    assert not torch.equal(chunks[0], start)
    assert torch.equal(chunks[0], chunks[1])


def test_the_steps_of_a_request_are_seen_and_seeing_changes_nothing() -> None:
    one, other, seen = Life(steps=7, floor=2), Life(steps=7, floor=2), list[tuple[int, float]]()
    unseen = one.forget().outcome
    with observed(lambda number: seen.append((number, other.loss(0)))):
        assert other.forget().outcome == unseen
    assert [number for number, _ in seen] == list(range(1, 8))
    assert len({loss for _, loss in seen}) == 7, "the look is at the weights of that step"
    assert torch.equal(one.strategy._hyper.parameters, other.strategy._hyper.parameters)


def test_the_steps_of_a_request_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip = Passes.clip

    def kept(steps: Passes, gradient: torch.Tensor) -> torch.Tensor:
        norms.append(float(clip(steps, gradient).norm()))
        return gradient

    life = Life(steps=5, floor=2, training={"clip_norm": 0.01})
    monkeypatch.setattr(Passes, "clip", kept)
    life.forget()
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)


def test_what_becomes_of_codes() -> None:
    for forgotten, left in (("drop", 1), ("keep", 2), ("protect", 2)):
        life = Life(steps=5, forgotten=forgotten)
        gone = life.stream.requests[0].sample_ids
        life.forget()
        assert len(life.strategy._tasks) == left
        assert np.array_equal(life.strategy.holds(gone)["weights"], gone)


def test_nothing_of_a_forgotten_task_is_left_in_statistics() -> None:
    strategy = (life := Life(steps=2, forgotten="keep", training={"epochs": 1})).strategy
    strategy._buffers = {"mean": torch.zeros(2)}
    for task in strategy._tasks:
        task.buffers = {"mean": torch.ones(2)}
    life.forget()
    assert [t.buffers["mean"].tolist() for t in strategy._tasks] == [[0.0, 0.0], [1.0, 1.0]]
    strategy._buffers["mean"] += 1
    assert strategy._tasks[0].buffers["mean"].tolist() == [0.0, 0.0], "its own copy"


def test_parts_of_tasks_are_refused() -> None:
    life = Life(tasks=1)
    (request,) = life.stream.requests[0].requests
    some = DeletionRequest("request-0", (type(request)("sample", (), request.sample_ids[:4], request.barred_ids, 1),))
    with pytest.raises(RequestError, match="4 of the"):
        step(life.strategy, some, life.ledger)


def test_a_request_for_two_tasks_is_their_mean() -> None:
    """The loss before the first step: gamma times the mean squared distance to noise, over draws and tasks."""
    life = Life(tasks=3, steps=1, floor=1, draws=3, unlearn=0.02, training={"epochs": 1})
    asked = [
        replace(life.stream.requests[0].requests[0], keys=(n,), sample_ids=life.stream.events[n].sample_ids)
        for n in (0, 1)
    ]
    generator = (life.strategy._names / "both" / 0).torch()
    distances = []
    for number in (0, 1):
        weights = life.weights(number)
        noise = torch.randn(3, len(weights), generator=generator)
        distances.append(float((weights - noise).square().sum(1).mean()))
    outcome = step(life.strategy, DeletionRequest("both", tuple(asked)), life.ledger).outcome
    assert outcome.losses["unlearn"] == pytest.approx(0.02 * float(np.mean(distances)), rel=1e-4)


def test_a_resume_goes_on_counting_requests() -> None:
    life = Life(steps=10, floor=2, training={"epochs": 1})
    assert life.forget().outcome.steps == 10
    resumed = Uncle(life.options, life.setting)
    resumed.load_state_dict(life.strategy.state_dict())
    (request,) = life.stream.requests[0].requests
    second = replace(request, keys=(1,), sample_ids=life.stream.events[1].sample_ids)
    assert step(resumed, DeletionRequest("second", (second,)), life.ledger).outcome.steps == 9
