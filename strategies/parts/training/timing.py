"""Seconds that parts of an event take, for whoever runs the strategy; no number of a run depends on them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

_spent: ContextVar[dict[str, float] | None] = ContextVar("spent", default=None)


@contextlib.contextmanager
def timing() -> Iterator[dict[str, float]]:
    """Collect the seconds that `timed` parts take while this is open, by name; those of one name are added up."""
    spent: dict[str, float] = {}
    token = _spent.set(spent)
    try:
        yield spent
    finally:
        _spent.reset(token)


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    """Count what happens inside under a name."""
    started = time.perf_counter()
    try:
        yield
    finally:
        spent = _spent.get()
        if spent is not None:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
