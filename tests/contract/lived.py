"""A strategy's life, event by event, with everything noted down."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from contract.candidates import Candidate
from contract.worlds import SpyDoor, SpyLedger, World

from strategies.base import Access, Outcome, State, Strategy
from strategies.parts.model import digest
from strategies.step import step
from streams.events import DeletionRequest, Event


@dataclass(frozen=True, eq=False)
class Moment:
    """What is known right after one event."""

    event: Event
    outcome: Outcome
    state: State
    digest: str
    deleted: np.ndarray
    held: dict[str, np.ndarray]
    stored: np.ndarray
    door: SpyDoor | None
    globals_kept: bool


@dataclass(eq=False)
class Lived:
    """A strategy's life, moment by moment."""

    strategy: Strategy
    ledger: SpyLedger
    start: str
    moments: list[Moment] = field(default_factory=list)

    @property
    def digests(self) -> list[str]:
        return [m.digest for m in self.moments]

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
        life.moments.append(Moment(event, outcome, state, digest(state), deleted, held, stored, door, kept))
    return life


def begin(world: World, candidate: Candidate, declared: Access | None = None, seed: int = 0) -> Lived:
    strategy = world.build(candidate, seed)
    return Lived(strategy, world.ledger(declared), digest(strategy.state_dict()))


def state_after(world: World, candidate: Candidate, events: Iterable[Event]) -> State:
    """Let events happen unwatched, and return the state that is left."""
    strategy, ledger = world.build(candidate), world.ledger()
    for event in events:
        step(strategy, event, ledger)
    return strategy.state_dict()


def end_of(world: World, candidate: Candidate, events: Iterable[Event]) -> str:
    """The digest of the state that is left."""
    return digest(state_after(world, candidate, events))


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
