"""An event that is interrupted in the middle of its trainings, again and again, ends in the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contract import facts
from contract.promises import through_disk
from contract.worlds import make_world
from fixtures.fake_cuda import fake_cuda

from strategies.parts import fit
from strategies.parts.fit import observed
from strategies.parts.states import map_tensors
from strategies.parts.training.progress import Progress, keeping, stop_after_step
from strategies.step import Step, restore, step
from streams.ledger import Ledger

_MOST = 6
"""Interruptions of one event."""
LASTS = 3
"""Steps that an attempt lasts at most; what takes no steps, such as solving for a head, is not interrupted."""


def from_disk(state: Any) -> Any:
    """A state as it comes from disk, every tensor where it was: to a file, a GPU that is not there is none."""
    devices: list[torch.device] = []
    map_tensors(state, lambda tensor: devices.append(tensor.device))
    left = iter(devices)
    return map_tensors(through_disk(state), lambda tensor: tensor.to(next(left)))


class Kept:
    """A store whose states have been on disk."""

    def __init__(self) -> None:
        self._states: dict[int, Any] = {}

    def read(self, number: int) -> Any:
        return self._states.get(number)

    def write(self, number: int, state: Any) -> None:
        self._states[number] = from_disk(state)


class Attempts:
    """The attempts at one event: each but the last is stopped after so many steps."""

    def __init__(self, lasts: Iterator[int], every: float | None) -> None:
        self.store, self.stopped, self.longest = Kept(), 0, 0
        self._lasts, self._every, self._left = lasts, every, 0

    def step(self, strategy: Any, event: Any, ledger: Ledger) -> Step | None:
        """Let the event happen; return None if it was stopped."""
        self._left = next(self._lasts) if self.stopped < _MOST else -1
        try:
            with observed(self._look), keeping(Progress(self.store, self._every)):
                return step(strategy, event, ledger)
        except KeyboardInterrupt:
            self.stopped += 1
            return None

    def _look(self, number: int) -> None:
        self.longest = max(self.longest, number)
        self._left -= 1
        if self._left == 0:
            stop_after_step()


def interrupted(kit: Any, world: Any, candidate: Any, life: Any) -> tuple[int, int]:
    """Live through all events, interrupted in each, and compare with the life that was not.

    Returns how often it was interrupted, and how many steps its longest training took.
    """
    count, longest, lasts = 0, 0, steps_drawn(candidate.name)
    strategy, ledger = world.build(candidate), world.ledger()
    before = from_disk(strategy.state_dict())
    for index, event in enumerate(world.stream.events):
        attempts = Attempts(lasts, 0.0 if index % 2 else None)
        while (done := attempts.step(strategy, event, ledger)) is None:
            strategy, ledger = world.build(candidate), kit.ledger_after(world.ledger(), world.stream.events[:index])
            restore(strategy, before, ledger)
        moment, where = life.moments[index], f"event {index} ({event.name})"
        assert kit.whole_of(world, strategy) == moment.whole, where
        # What an outcome says is compared as it is written into the table: a NaN is like another.
        assert repr(done.outcome) == repr(moment.outcome), where
        assert done.samples_read == (0 if done.skipped else moment.door.num_read), where
        before = from_disk(strategy.state_dict())
        count, longest = count + attempts.stopped, max(longest, attempts.longest)
    return count, longest


def steps_drawn(name: str) -> Iterator[int]:
    """How many steps each attempt lasts: few, so that trainings are interrupted in all of their parts."""
    number = sum(map(ord, name))
    while True:
        number = (number * 1103515245 + 12345) % 2**31
        yield 1 + (number >> 16) % LASTS


@pytest.mark.parametrize(("name", "form"), [("si+none", "task-incremental"), ("clpu-der", "class-incremental")])
def test_interruptions_leave_no_trace(kit: Any, name: str, form: str) -> None:
    candidate = next(c for c in kit.candidates() if c.name == name)
    world = kit.world(candidate.place(form))
    assert interrupted(kit, world, candidate, kit.life(world, candidate))[0] > 5


@pytest.mark.nightly
def test_interruptions_leave_no_trace_in_any_strategy(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    if facts.relives(life.strategy):
        pytest.skip("its training is not the simulator's, and begins again at the event's start")
    count, longest = interrupted(kit, world, candidate, life)
    assert count or longest <= LASTS or candidate.own, "it was never interrupted: hooks say what they carry"


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["si+none", "replay+scrub", "sisa", "pall", "unified-kd", "der-plus-plus+none"])
def test_nor_on_a_gpu(kit: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = next(c for c in kit.candidates() if c.name == name)
    form = candidate.place("class-incremental")
    monkeypatch.setattr(fit, "layers_of", lambda model: None)  # what perceptrons are trained by is for processors alone
    world = kit.world(form)
    life = kit.go_on(kit.begin(world, candidate), world.stream.events)
    with fake_cuda(monkeypatch):
        assert interrupted(kit, make_world(form, "cuda"), candidate, life)[0] > 5
