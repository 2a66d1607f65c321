"""One event in the life of one strategy: ledger, door, learn or forget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.base import State, Strategy
from strategies.outcome import Outcome
from streams.events import DeletionRequest, Event, Experience
from streams.ledger import Access, Ledger

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
        LedgerError, AccessError: the strategy reached for what it may not read.
    """
    if isinstance(event, Experience):
        admitted = ledger.admit(event)
        if not len(admitted.sample_ids):
            return Step(Outcome(), 0, skipped=True)
        door = ledger.door(strategy.access, admitted.sample_ids)
        outcome = strategy.consolidate(admitted, door) if event.consolidates else strategy.learn(admitted, door)
    else:
        ledger.delete(event)
        door = ledger.door(strategy.access, _NOTHING, event.sample_ids)
        outcome = strategy.forget(event, door)
    door.close()
    return Step(outcome, door.num_read)


def restore(strategy: Strategy, state: State, ledger: Ledger) -> None:
    """Put a saved state back into a strategy; `ledger` must stand where it stood when the state was saved."""
    strategy.load_state_dict(state)
    door = ledger.door(Access(retained="full"), _NOTHING)
    strategy.restore(door)
    door.close()


def ledger_after(ledger: Ledger, events: tuple[Event, ...]) -> Ledger:
    """Record `events` on a ledger without any strategy, and return it."""
    for event in events:
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
    return ledger
