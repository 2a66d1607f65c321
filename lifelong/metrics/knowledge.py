"""Long streams in which classes come back: how knowledge accumulates, and how long it lasts between two visits.

The curve is the accuracy on everything there is to know, learned or not. With classes that recur it can rise over
hundreds of experiences although each of them is followed by forgetting (Lesort et al. 2023, arXiv 2207.04543), so it is
read as a moving average, beside the accuracy of units by the time since they last came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from lifelong.results.table import Row, row
from strategies.metric import Better, Metric
from streams.events import Event, Experience

WINDOW = 20
"""Evaluations that the moving average and the slope look back on."""

LAGS = (0, 1, 2, 3, 4, 8, 16, 32)
"""Lower edges of the bins of learn events since a unit last came; the last one is open."""

THRESHOLDS = (50, 80)
"""Percent, of `events_to_50` and so on."""


def _span(lag: int, following: int | None) -> str:
    if following is None:
        return f"{lag} or more"
    return str(lag) if following == lag + 1 else f"{lag} to {following - 1}"


METRICS: dict[str, Metric] = {
    "accumulation_slope": Metric(
        "Least-squares slope, over the last 20 evaluations, of the score on all test samples, learned or not.",
        "score per learn event",
        "higher",
    ),
    **{
        f"events_to_{p}": Metric(
            f"Learn events until the mean over 20 evaluations of the score on all test samples first reached {p} %.",
            "events",
            "lower",
        )
        for p in THRESHOLDS
    },
    **{
        f"retention_{lag}": Metric(
            f"Mean score of the units that last came {_span(lag, following)} learn events ago (0 is the event itself).",
            "as the score",
            "higher",
        )
        for lag, following in zip(LAGS, (*LAGS[1:], None), strict=True)
    },
    "lag_correlation": Metric(
        "Rank correlation, over the units held, of the time since a unit last came and its score: below 0 where it "
        "decays between visits.",
        "-1 to 1",
        "neither",
    ),
    "frequency_correlation": Metric(
        "Rank correlation, over the units held, of how often a unit came and its score.", "-1 to 1", "neither"
    ),
    "stability_gap": Metric(
        "Mean over earlier units of the score just before an experience, minus the lowest within it.",
        "as the score",
        "lower",
        0.0,
    ),
}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "whole_": ("Over all test samples of the stream that are not deleted, learned or not: {}.", "higher"),
    "accumulated_": ("Mean over the last 20 evaluations of that on all test samples, learned or not: {}.", "higher"),
    "lowest_": ("Mean over earlier units of the lowest value within the experience: {}.", "higher"),
}
"""The same of the score, by prefixes to its name."""


def moving_average(curve: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each value and up to `window` - 1 values before it, ``[E]``.

    >>> moving_average(np.array([0.0, 1.0, 1.0, 4.0]), 2).tolist()
    [0.0, 0.5, 1.0, 2.5]
    """
    total = np.concatenate([[0.0], np.cumsum(curve)])
    stop = np.arange(1, len(curve) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def slope(at: np.ndarray, curve: np.ndarray) -> float | None:
    """Return the least-squares slope of `curve` over the points `at`, or None with fewer than two different points.

    >>> slope(np.array([0.0, 10.0, 20.0]), np.array([0.1, 0.2, 0.3]))
    0.01
    """
    offset = at - at.mean() if len(at) else at
    spread = float((offset**2).sum())
    return round(float((offset * curve).sum()) / spread, 15) if spread > 0 else None


def events_to(at: Sequence[int], curve: Sequence[float], threshold: float) -> int | None:
    """Return the first of the points `at` where `curve` reaches `threshold`, or None.

    >>> events_to([10, 20, 30], [0.2, 0.6, 0.5], 0.5)
    20
    """
    return next((a for a, value in zip(at, curve, strict=True) if value >= threshold), None)


def normalised(curve: np.ndarray, at_once: float) -> np.ndarray:
    """Return accuracies as shares of `at_once`, the accuracy of the same model trained on everything at once.

    >>> normalised(np.array([0.45, 0.9]), 0.9).tolist()
    [0.5, 1.0]
    """
    return curve / at_once


def retention(accuracy: np.ndarray, lag: np.ndarray, edges: Sequence[int]) -> tuple[list[float | None], list[int]]:
    """Return the mean accuracy of units by the time since they last came, and how many each mean rests on.

    Args:
        accuracy: ``[U]``.
        lag: int ``[U]``, learn events since each last came.
        edges: ascending lower edges of the bins; the last one is open.

    >>> retention(np.array([1.0, 0.5, 0.7, 0.1]), np.array([0, 1, 1, 9]), (0, 1, 2, 5))
    ([1.0, 0.6, None, 0.1], [1, 2, 0, 1])
    """
    bins = np.digitize(lag, edges) - 1
    chosen = [accuracy[bins == i] for i in range(len(edges))]
    return [float(c.mean()) if len(c) else None for c in chosen], [len(c) for c in chosen]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Spearman's correlation, ties by their mean rank, or None if one side is constant.

    >>> rank_correlation(np.array([1, 2, 3, 4]), np.array([0.1, 0.4, 0.9, 1.6]))
    1.0
    """
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return round(float(np.corrcoef(_ranks(a), _ranks(b))[0, 1]), 12)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def stability(before: np.ndarray, during: np.ndarray) -> tuple[float, float] | None:
    """Return the mean over units of the lowest accuracy within an experience, and of how far that lies below before.

    The second is the stability gap (De Lange et al. 2023, arXiv 2205.13452).

    Args:
        before: ``[U]`` accuracies before the experience, of units learned earlier.
        during: ``[S, U]`` accuracies at several steps within it.

    >>> stability(np.array([0.9, 0.8]), np.array([[0.4, 0.8], [0.7, 0.9]]))
    (0.6, 0.25)
    """
    if not during.size:
        return None
    lowest = during.min(0)
    return round(float(lowest.mean()), 12), round(float((before - lowest).mean()), 12)


@final
class Knowledge:
    """Follows the curve, and when each unit last came."""

    def __init__(self, events: Sequence[Event], num_units: int, measure: str) -> None:
        """Start before the first event."""
        self._events, self._measure = events, measure
        taught = [e.units for e in events if isinstance(e, Experience) and not e.consolidates]
        self._recurs = len(taught) > 1 and max(np.bincount([u for units in taught for u in units])) > 1
        self._next = self._learned = 0
        self._last = np.full(num_units, -1)
        self._times = np.zeros(num_units, dtype=np.int64)
        self._at: list[int] = []
        self._curve: list[float] = []
        self._reached: dict[int, int] = {}

    def update(self, event: int, whole: float | None, n: int, now: np.ndarray, held: np.ndarray) -> list[Row]:
        """Return the rows after an event that is evaluated.

        Args:
            event: its index.
            whole: accuracy on everything there is to know.
            n: the samples it rests on.
            now: ``[U]`` accuracies of the units.
            held: bool ``[U]``, learned and not deleted as a whole.
        """
        for past in self._events[self._next : event + 1]:
            if isinstance(past, Experience) and not past.consolidates:
                self._last[list(past.units)] = self._learned
                self._times[list(past.units)] += 1
                self._learned += 1
        self._next = event + 1
        nothing = "all test samples are deleted"
        rows = [row(event, "run", "stream", f"whole_{self._measure}", whole, n, nothing)]
        if whole is not None:
            self._at.append(self._learned)
            self._curve.append(whole)
        recent = np.array(self._curve[-WINDOW:])
        average = float(recent.mean()) if len(recent) else None
        rows.append(row(event, "run", "stream", f"accumulated_{self._measure}", average, len(recent), nothing))
        steepness = slope(np.array(self._at[-WINDOW:], dtype=np.float64), recent)
        rows.append(row(event, "run", "stream", "accumulation_slope", steepness, len(recent), "only one evaluation"))
        for percent in THRESHOLDS:
            if percent not in self._reached and average is not None and 100 * average >= percent:
                self._reached[percent] = self._at[-1]
            reached = self._reached.get(percent)
            rows.append(row(event, "run", "stream", f"events_to_{percent}", reached, 1, "not reached yet"))
        return rows + (self._lasting(event, now, held) if self._recurs else [])

    def _lasting(self, event: int, now: np.ndarray, is_held: np.ndarray) -> list[Row]:
        """Return what the time since a unit last came, and how often it came, have to do with its accuracy."""
        units = np.flatnonzero(is_held & (self._last >= 0) & np.isfinite(now))
        lag, accuracy = self._learned - 1 - self._last[units], now[units]
        means, counts = retention(accuracy, lag, LAGS)
        rows = [
            row(event, "run", "stream", f"retention_{edge}", mean, n, "no unit came that long ago")
            for edge, mean, n in zip(LAGS, means, counts, strict=True)
        ]
        for name, history in (("lag_correlation", lag), ("frequency_correlation", self._times[units])):
            value = rank_correlation(history, accuracy)
            rows.append(row(event, "run", "stream", name, value, len(units), "all units are alike"))
        return rows
