"""A strategy's life, event by event, with everything noted down."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from contract.candidates import Candidate
from contract.worlds import SpyDoor, SpyLedger, World

from lifelong.processes.fresh import call
from strategies.base import Access, Outcome, State, Strategy
from strategies.parts.model import digest
from strategies.step import ledger_after, restore, step
from streams.events import DeletionRequest, Event

T = TypeVar("T")


Whole = tuple[str, str]
"""Digests of a state and of the answers that are given in it: what is compared."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What is known right after one event."""

    event: Event
    outcome: Outcome
    state: State
    digest: str
    answers: str
    deleted: np.ndarray
    held: dict[str, np.ndarray]
    stored: np.ndarray
    door: SpyDoor | None
    globals_kept: bool

    @property
    def whole(self) -> Whole:
        return self.digest, self.answers


@dataclass(eq=False)
class Lived:
    """A strategy's life, moment by moment."""

    strategy: Strategy
    world: World
    ledger: SpyLedger
    start: Whole
    moments: list[Moment] = field(default_factory=list)

    @property
    def digests(self) -> list[str]:
        return [m.digest for m in self.moments]

    @property
    def wholes(self) -> list[Whole]:
        return [m.whole for m in self.moments]

    def requests(self) -> Iterator[tuple[int, Moment]]:
        yield from ((i, m) for i, m in enumerate(self.moments) if isinstance(m.event, DeletionRequest))


def generators() -> tuple[object, ...]:
    """The state of every global generator."""
    _, words, position, *_ = np.random.get_state()
    return random.getstate(), words.tobytes(), position, torch.random.get_rng_state().numpy().tobytes()


def go_on(life: Lived, events: Iterable[Event]) -> Lived:
    """Let events happen and note down everything."""
    for event in events:
        before, doors = generators(), len(life.ledger.doors)
        outcome = step(life.strategy, event, life.ledger).outcome
        deleted = life.ledger.deleted_ids
        state = life.strategy.state_dict()
        held, stored = life.strategy.holds(deleted), life.strategy.stored_ids()
        kept = generators() == before
        door = life.ledger.doors[-1] if len(life.ledger.doors) > doors else None
        answers = life.world.answers(life.strategy)
        life.moments.append(Moment(event, outcome, state, digest(state), answers, deleted, held, stored, door, kept))
    return life


def begin(world: World, candidate: Candidate, declared: Access | None = None, seed: int = 0) -> Lived:
    strategy = world.build(candidate, seed)
    return Lived(strategy, world, world.ledger(declared), whole_of(world, strategy))


def state_after(world: World, candidate: Candidate, events: Iterable[Event]) -> State:
    """Let events happen unwatched and unasked, and return the state that is left."""
    strategy, ledger = world.build(candidate), world.ledger()
    for event in events:
        step(strategy, event, ledger)
    return strategy.state_dict()


def whole_of(world: World, strategy: Strategy) -> Whole:
    return digest(strategy.state_dict()), world.answers(strategy)


def alone(candidate: Candidate, function: Callable[..., T], *arguments: object) -> T:
    """Call a function; for a strategy of a user's file in a process where nobody has lived before.

    What the file keeps in its module would make all lives alike that share a process.
    """
    return call(_with_one_thread, function, *arguments) if candidate.own else function(*arguments)


def _with_one_thread(function: Callable[..., T], *arguments: object) -> T:
    torch.set_num_threads(1)
    return function(*arguments)


def end_of(world: World, candidate: Candidate, events: Iterable[Event]) -> Whole:
    """Let events happen unwatched and unasked, and return what is left."""
    return alone(candidate, _end_of, world, candidate, tuple(events))


def _end_of(world: World, candidate: Candidate, events: Iterable[Event]) -> Whole:
    strategy, ledger = world.build(candidate), world.ledger()
    for event in events:
        step(strategy, event, ledger)
    return whole_of(world, strategy)


def wholes_of(world: World, candidate: Candidate, events: Iterable[Event]) -> list[Whole]:
    """Let events happen, and return what is there before them and after each."""
    return alone(candidate, _wholes_of, world, candidate, tuple(events))


def _wholes_of(world: World, candidate: Candidate, events: Iterable[Event]) -> list[Whole]:
    life = go_on(begin(world, candidate), events)
    return [life.start, *life.wholes]


def resumed(world: World, candidate: Candidate, state: State, index: int) -> tuple[Whole, Whole]:
    """Restore the state after one event and live on; return what is there then, and at the end.

    Raises:
        CheckpointError: it cannot be restored.
    """
    return alone(candidate, _resumed, world, candidate, state, index)


def _resumed(world: World, candidate: Candidate, state: State, index: int) -> tuple[Whole, Whole]:
    events = world.stream.events
    strategy, ledger = world.build(candidate), ledger_after(world.ledger(), events[: index + 1])
    restore(strategy, state, ledger)
    restored = whole_of(world, strategy)
    for event in events[index + 1 :]:
        step(strategy, event, ledger)
    return restored, whole_of(world, strategy)


def resumed_again_and_again(
    world: World, candidate: Candidate, through_disk: Callable[[State], State]
) -> tuple[Whole, list[Whole], list[str]]:
    """Live on in another strategy after every event, each restored from what the one before has left on disk.

    Returns:
        What is there at the start, after each restore, and digests of the states at the end of all.
    """
    return alone(candidate, _resumed_again_and_again, world, candidate, through_disk)


def _resumed_again_and_again(
    world: World, candidate: Candidate, through_disk: Callable[[State], State]
) -> tuple[Whole, list[Whole], list[str]]:
    strategy, ledger = world.build(candidate), world.ledger()
    states: list[State] = []
    wholes: list[Whole] = []
    start = whole_of(world, strategy)
    for index, event in enumerate(world.stream.events):
        step(strategy, event, ledger)
        states.append(through_disk(strategy.state_dict()))
        strategy, ledger = world.build(candidate), ledger_after(world.ledger(), world.stream.events[: index + 1])
        restore(strategy, states[-1], ledger)
        wholes.append(whole_of(world, strategy))
    return start, wholes, [digest(state) for state in states]


_LIVES: dict[tuple[str, str], Lived] = {}


def life_of(world: World, candidate: Candidate) -> Lived:
    """The uninterrupted life, lived once and shared by all tests."""
    key = (world.name, candidate.name)
    if key not in _LIVES:
        _LIVES[key] = go_on(begin(world, candidate), world.stream.events)
    return _LIVES[key]


def forget_lives() -> None:
    """Let go of all lives: nobody asks for them again."""
    _LIVES.clear()
