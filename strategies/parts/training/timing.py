"""Seconds that parts of an event take, for whoever runs the strategy; no number of a run depends on them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

Spent = dict[str, float | str]
"""Seconds by name, and what else is said of an event."""

_spent: ContextVar[Spent | None] = ContextVar("spent", default=None)


@dataclass(slots=True)
class Away:
    """Seconds in which others had the turn, and which do not count."""

    seconds: float = 0.0


_away: ContextVar[Away | None] = ContextVar("away", default=None)


@contextlib.contextmanager
def counting_away() -> Iterator[Away]:
    """Let `now` stand still for the seconds that are added to what this returns."""
    away = Away()
    token = _away.set(away)
    try:
        yield away
    finally:
        _away.reset(token)


def now() -> float:
    """Return a time in seconds, whose differences are what was spent here: not in the turns of other runs."""
    away = _away.get()
    return time.perf_counter() - (0.0 if away is None else away.seconds)


def say(name: str, what: str) -> None:
    """Note something of the event that is timed, if one is."""
    spent = _spent.get()
    if spent is not None:
        spent[name] = what


@contextlib.contextmanager
def timing() -> Iterator[Spent]:
    """Collect the seconds that `timed` parts take while this is open, by name; those of one name are added up."""
    spent: Spent = {}
    token = _spent.set(spent)
    try:
        yield spent
    finally:
        _spent.reset(token)


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    """Count what happens inside under a name."""
    started = now()
    try:
        yield
    finally:
        spent = _spent.get()
        if spent is not None:
            spent[name] = float(spent.get(name, 0.0)) + now() - started
