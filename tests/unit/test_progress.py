"""Trainings that are interrupted: what is kept of them and when, and where they go on."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import strategies
from strategies.base import Plugin
from strategies.parts.fit import Hooks, Training, fit, observed, says_what_it_carries
from strategies.parts.model import digest
from strategies.parts.training import progress
from strategies.parts.training.progress import Progress, keeping, put_back, state_of, stop_after_step
from streams.data import Batch
from streams.randomness import Key

IN_A_STEP = ("extend", "displace", "losses", "loss", "gradient", "proceed", "stepped")
TRAINING = Training(epochs=2, batch_size=10, lr=0.1, momentum=0.9)


class Kept:
    """A store in memory that writes down what it is given."""

    def __init__(self) -> None:
        self.states: dict[int, Any] = {}
        self.writes: list[int] = []

    def read(self, number: int) -> Any:
        return copy.deepcopy(self.states.get(number))

    def write(self, number: int, state: Any) -> None:
        self.states[number] = copy.deepcopy(state)
        self.writes.append(number)


class Sums(Hooks):
    """Counts its steps, and stops training at one."""

    carries = ("seen",)

    def __init__(self, last: int = 100) -> None:
        self.seen, self._last = 0, last

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        self.seen += 1
        return losses * self.seen

    def proceed(self, loss: torch.Tensor) -> bool:
        return self.seen <= self._last


class Silent(Hooks):
    """Says nothing of what it carries."""

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses


class Derived(Sums):
    """Overrides a hook of one that has said it."""

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses


def event(
    tools: Any, store: Kept, every: float | None = None, stop: int = 0, hooks: Sequence[Hooks] = (), trainings: int = 2
) -> tuple[str, list[Any], int]:
    """Train a model so often; return a digest of it, the outcomes, and the steps that were taken.

    Asked to stop at one of the steps, it does.
    """
    source = tools.source()
    objective, model, data = tools.setting(source).objective, tools.mlp((5, 8, 4)), tools.lend(source)
    taken = 0

    def look(number: int) -> None:
        nonlocal taken
        taken += 1
        if taken == stop:
            assert stop_after_step()

    outcomes = []
    with observed(look), keeping(Progress(store, every)):
        for number in range(trainings):
            outcomes.append(fit(model, objective, data, TRAINING, Key(0) / number, hooks))
    return digest(model.state_dict()), outcomes, taken


def test_every_hook_says_what_it_carries_from_step_to_step() -> None:
    for module in pkgutil.walk_packages(strategies.__path__, "strategies."):
        importlib.import_module(module.name)
    left: list[type[Hooks]] = [Hooks]
    found: list[type[Hooks]] = []
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        found += [kind] if kind.__module__.startswith("strategies.") and kind not in (Hooks, Plugin) else []
    changing = [k for k in found if any(getattr(k, n) is not getattr(Hooks, n) for n in IN_A_STEP)]
    assert len(changing) > 40
    assert [k for k in changing if not says_what_it_carries(k)] == []


def test_only_the_class_that_overrides_can_say_it() -> None:
    assert says_what_it_carries(Sums)
    assert not says_what_it_carries(Silent)
    assert not says_what_it_carries(Derived)


@pytest.mark.parametrize("stop", range(1, 13))
def test_stopped_at_any_step_it_ends_the_same(stop: int, tools: Any) -> None:
    """24 samples in batches of 10, twice: six steps a training."""
    expected = event(tools, Kept(), hooks=[Sums()])
    store = Kept()
    with pytest.raises(KeyboardInterrupt):
        event(tools, store, stop=stop, hooks=[Sums()])
    assert store.writes == [(stop - 1) // 6]
    end, outcomes, taken = event(tools, store, hooks=[Sums()])
    assert (end, outcomes) == expected[:2]
    assert taken == 12 - ((stop - 1) % 6 + 1)  # of an earlier training nothing was kept


def test_trainings_that_are_over_are_not_done_again(tools: Any) -> None:
    store = Kept()
    first = event(tools, store, every=0)
    assert store.writes == [0] * 6 + [1] * 6
    again = event(tools, store, every=0)
    assert again == (*first[:2], 0)


def test_one_that_ended_early_does_not_go_on(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes a second. Only the end is kept, after a batch that was passed and not learned from."""
    store, hook = Kept(), Sums(3)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(hook.seen))
    first = event(tools, store, every=4.0, hooks=[hook], trainings=1)
    assert store.writes == [0]
    assert (first[1][0].steps, first[1][0].forward) == (3, 34)
    assert event(tools, store, every=4.0, hooks=[hook], trainings=1) == (*first[:2], 0)


@pytest.mark.parametrize("hook", [Silent(), Derived()])
def test_what_does_not_say_what_it_carries_begins_again(hook: Hooks, tools: Any) -> None:
    store = Kept()
    event(tools, store, every=0, hooks=[hook])
    assert store.writes == []


def test_nothing_is_asked_to_stop_between_trainings(tools: Any) -> None:
    with keeping(Progress(Kept(), None)):
        assert not stop_after_step()
    assert not stop_after_step()


@pytest.mark.parametrize(
    ("every", "write_takes", "expected"),
    [
        (None, 0.0, []),
        (100.0, 0.0, []),
        (4.0, 0.0, [0, 0, 1, 1, 2, 2]),  # at step 4, then each as it ends, and in its middle
        (9.0, 0.0, [1, 1, 2]),  # the first was over before the event had lasted so long
        (9.0, 1.0, [1, 2]),  # one of six steps is not worth a write at its end that takes as long as a step
    ],
)
def test_when_states_are_kept(
    every: float | None, write_takes: float, expected: list[int], tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second."""
    now = 0.0

    class Slow(Kept):
        def write(self, number: int, state: Any) -> None:
            nonlocal now
            super().write(number, state)
            now += write_takes

    class Second(Hooks):
        carries = ()

        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            nonlocal now
            now += 1
            return losses

    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    store = Slow()
    event(tools, store, every=every, hooks=[Second()], trainings=3)
    assert store.writes == expected


def test_states_go_back_in_place() -> None:
    class Holder(Hooks):
        carries = ("inner.values", "terms", "generator", "ids", "pair", "none")

        def __init__(self) -> None:
            self.inner = self
            self.values = torch.zeros(3)
            self.terms = {"a": [torch.tensor(1.0)], "b": []}
            self.generator = torch.Generator().manual_seed(1)
            self.ids = np.array([1, 2])
            self.pair: Any = None
            self.none: Any = "text"

    one, other = Holder(), Holder()
    one.values += 1
    one.terms["b"].append(torch.tensor(2.0))
    drawn = torch.rand(2, generator=one.generator)
    one.ids, one.pair, one.none = np.array([4, 5, 6]), (torch.ones(1), torch.zeros(2)), None
    state = copy.deepcopy(state_of(one))  # as a file holds it
    shared, terms = other.values, other.terms
    put_back(other, state)
    one.values += 1
    assert shared is other.values
    assert terms is other.terms
    assert other.values.tolist() == [1, 1, 1]
    assert (other.terms["b"], other.ids.tolist(), other.none) == ([torch.tensor(2.0)], [4, 5, 6], None)
    assert [t.tolist() for t in other.pair] == [[1], [0, 0]]
    assert torch.equal(torch.rand(2, generator=other.generator), torch.rand(2, generator=one.generator))
    assert not torch.equal(drawn, torch.rand(2, generator=other.generator))
