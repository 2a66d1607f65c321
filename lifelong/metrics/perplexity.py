"""The perplexity of text by domain, event after event: which domains a language model knows, and which no longer.

A row's loss is the mean of -log p over the tokens to be predicted, a unit's the mean over its test rows, and its
perplexity e to that power. The rows of all units after all events are the perplexity matrix.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from lifelong.metrics.accumulation import unit_means
from lifelong.results.table import Row, row
from strategies.metric import Metric

METRICS: dict[str, Metric] = {
    "perplexity": Metric(
        "Of text: e to the mean, over a unit's test rows that are not deleted, of each row's mean of -log p over the "
        "tokens to be predicted.",
        "tokens",
        "lower",
        1.0,
    ),
    "average_perplexity": Metric("Geometric mean of the perplexity over the units held.", "tokens", "lower", 1.0),
    "perplexity_growth": Metric(
        "Geometric mean, over units learned before this event, of their perplexity over that when they were learned.",
        "factor",
        "lower",
    ),
}


def perplexity_of(loss: np.floating) -> float:
    """Return e to the power of a mean loss; infinite above 709 nats, which ascent reaches.

    >>> perplexity_of(np.float64(0.0)), perplexity_of(np.float64(1000.0))
    (1.0, inf)
    """
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def growth(now: np.ndarray, first: np.ndarray, counts: np.ndarray) -> float | None:
    """Return by which factor perplexity has grown, the geometric mean over the marked units; None if none is marked.

    Args:
        now, first: ``[U]`` mean losses, in nats.
        counts: bool ``[U]``.

    >>> round(growth(np.array([2.0, 1.0]), np.array([1.0, 1.0]), np.array([True, True])), 4)
    1.6487
    """
    return perplexity_of(np.mean((now - first)[counts])) if counts.any() else None


class Perplexity:
    """Follows the losses of every unit's test rows."""

    def __init__(self, unit_of: np.ndarray, position_of: np.ndarray, unit_names: list[str]) -> None:
        """Start before the first event.

        Args:
            unit_of, position_of: int ``[M]``, the pairs (unit, position of a row).
            unit_names: of the U units.
        """
        self._tests, self._position_of = np.unique(position_of, return_inverse=True)  # kept are only their losses
        self._unit_of, self._names = unit_of, unit_names
        self._events: list[int] = []
        self._losses: list[np.ndarray] = []

    def update(self, event: int, losses: np.ndarray, alive: np.ndarray, since: np.ndarray) -> list[Row]:
        """Return the rows after an event that is evaluated.

        Args:
            event: its index.
            losses: ``[N]`` of every evaluated row.
            alive: bool ``[N]``: whether it still counts.
            since: int ``[U]``: event at which each unit was learned, -1 if it is not held.
        """
        losses, alive = losses[self._tests], alive[self._tests]
        last = self._events[-1] if self._events else -1
        self._events.append(event)
        self._losses.append(losses)
        now, counts = self._means(losses, alive)
        is_held = (since >= 0) & (counts > 0)
        old = is_held & (since <= last)
        first = now.copy()
        # The same rows are compared: of a unit that has lost some, the first value is taken on those that are left.
        for learned in np.unique(since[old]):
            then = self._means(self._losses[bisect_left(self._events, learned)], alive)[0]
            first = np.where(old & (since == learned), then, first)
        rows = [
            row(event, "run", self._names[u], "perplexity", perplexity_of(now[u]), int(counts[u]))
            for u in np.flatnonzero(counts > 0)
        ]
        average = perplexity_of(now[is_held].mean()) if is_held.any() else None
        none_held = "" if is_held.any() else "no unit with test samples is held"
        rows.append(row(event, "run", "stream", "average_perplexity", average, int(is_held.sum()), none_held))
        grown = growth(now, first, old)
        none_old = "" if old.any() else "no unit was learned before this event"
        return [*rows, row(event, "run", "stream", "perplexity_growth", grown, int(old.sum()), none_old)]

    def _means(self, losses: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return unit_means(losses, self._unit_of, self._position_of, len(self._names), alive)
