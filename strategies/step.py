"""One event in the life of one strategy: ledger, door, learn or forget."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from strategies.base import State, Strategy
from strategies.outcome import Outcome
from strategies.parts.training.progress import keep_beside
from strategies.parts.training.torch_settings import unchanged_torch
from streams.events import DeletionRequest, Event, Experience
from streams.ledger import Access, Door, Ledger

_NOTHING = np.array([], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did to one strategy.

    Attributes:
        outcome: what the strategy reports.
        samples_read: distinct samples it read through the door.
        skipped: whether there was nothing left to learn (all samples of the experience are deleted).
    """

    outcome: Outcome
    samples_read: int
    skipped: bool = False


def step(strategy: Strategy, event: Event, ledger: Ledger) -> Step:
    """Let `event` happen: record it, open the door, let the strategy act, close the door.

    Raises:
        LedgerError, AccessError: the strategy reached for what it may not read, or declares another access than before.
        IntegrityError: it changed torch's threads, determinism or default type; they are put back.
    """
    access = ledger.held_to(strategy.access)
    kept = None if access.retained in (0, "full") else strategy.stored_ids()
    if isinstance(event, Experience):
        event = ledger.admit(event)
        if not len(event.sample_ids):
            return Step(Outcome(), 0, skipped=True)
        door = ledger.door(access, event.sample_ids, kept=kept)
    else:
        ledger.delete(event)
        door = ledger.door(access, _NOTHING, event.sample_ids, kept)
    keep_beside(door)
    with contextlib.closing(door), unchanged_torch():
        outcome = _served(strategy, event, door)
    return Step(outcome, door.num_read)


def _served(strategy: Strategy, event: Event, door: Door) -> Outcome:
    if isinstance(event, DeletionRequest):
        return strategy.forget(event, door)
    return strategy.consolidate(event, door) if event.consolidates else strategy.learn(event, door)


def restore(strategy: Strategy, state: State, ledger: Ledger) -> None:
    """Put a saved state back into a strategy; `ledger` must stand where it stood when the state was saved."""
    strategy.load_state_dict(state)
    with contextlib.closing(ledger.door(Access(retained="full"), _NOTHING)) as door:
        strategy.restore(door)


def ledger_after(ledger: Ledger, events: tuple[Event, ...]) -> Ledger:
    """Record `events` on a ledger without any strategy, and return it."""
    for event in events:
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
    return ledger
