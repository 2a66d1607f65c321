"""What is known and what was lost by accident: accuracies over units, forgetting, transfer, plasticity.

Everything is computed from per-sample scores. A unit's accuracy after event e counts only test samples that are
alive then (no class or task deletion covers them), and comparisons with earlier events use the same samples, so that
deleting half of a unit cannot look like forgetting the other half.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from lifelong.results.table import Row, row
from strategies.metric import Better, Metric

METRICS: dict[str, Metric] = {
    "forgetting_from_first": Metric(
        "Mean over earlier units of the score right after a unit was first learned, minus the score now.",
        "as the score",
        "lower",
    ),
    "forgetting_from_best": Metric(
        "Mean over earlier units of the best score at any earlier event, minus the score now.", "as the score", "lower"
    ),
    "lifetime_forgetting": Metric(
        "Mean, over all evaluations so far and the units held at each, of the score right after the unit was first "
        "learned, minus the score then (Forgetting of CLPU).",
        "as the score",
        "lower",
    ),
    "backward_transfer": Metric(
        "Minus forgetting from first: how much later learning helped earlier units.", "as the score", "higher"
    ),
    "forward_transfer": Metric(
        "Mean over units of the score just before a unit is learned, minus that of the initial model.",
        "as the score",
        "higher",
    ),
    "plasticity": Metric(
        "Mean over the units held of the score right after the unit was first learned.", "as the score", "higher"
    ),
}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "average_": ("Mean over the units held (learned and not deleted as a whole) of their {} on test data.", "higher"),
    "sample_": ("Over all test samples of the units held, each counted once: {}.", "higher"),
    "lifetime_": (
        "Over all evaluations so far and the units held at each, every pair counted once (ACC of CLPU): {}.",
        "higher",
    ),
    "deleted_": ("On test samples of deleted classes and tasks: {}.", "reference"),
    "": ("On a unit's test samples that are not deleted: {}.", "higher"),
}
"""The same of the score, by prefixes to its name."""


def unit_means(
    scores: np.ndarray, unit_of: np.ndarray, position_of: np.ndarray, num_units: int, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average per-sample scores over units.

    Args:
        scores: float ``[N]``.
        unit_of, position_of: int ``[M]``, the pairs (unit, sample position).
        num_units: U.
        keep: bool ``[N]``, samples that count.

    Returns:
        float64 ``[U]`` means, NaN where no sample counts, and int ``[U]`` counts.

    >>> unit_means(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), np.array([0, 1, 2]), 2, np.ones(3, dtype=bool))[0]
    array([0.5, 1. ])
    """
    weight = keep[position_of].astype(np.float64)
    total = np.bincount(unit_of, weights=scores[position_of].astype(np.float64) * weight, minlength=num_units)
    count = np.bincount(unit_of, weights=weight, minlength=num_units)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan), count.astype(int)


def forgetting(now: np.ndarray, earlier: np.ndarray, counts: np.ndarray) -> float | None:
    """Return the mean over the marked units of earlier - now, or None if no unit is marked.

    With `earlier` the accuracy right after a unit was first learned this is forgetting from first (its negative is
    backward transfer); with the best accuracy at any earlier event it is forgetting from best (Chaudhry et al. 2018).

    >>> forgetting(np.array([0.5, 0.9]), np.array([1.0, 0.9]), np.array([True, True]))
    0.25
    """
    return float(np.mean((earlier - now)[counts])) if counts.any() else None


class Accumulation:
    """Follows unit accuracies event by event at constant cost per event.

    First and best accuracies are kept as running vectors; only when a deletion (or learning again) changes which
    samples count are they computed again from the stored scores.
    """

    def __init__(
        self, unit_of: np.ndarray, position_of: np.ndarray, num_units: int, unit_names: list[str], measure: str
    ) -> None:
        """Start before the first event."""
        self._tests, self._position_of = np.unique(position_of, return_inverse=True)  # kept is only what they score
        self._unit_of, self._num_units = unit_of, num_units
        self._names, self._measure = unit_names, measure
        self._events: list[int] = []
        self._scores: list[np.ndarray] = []
        self._start: np.ndarray | None = None
        self._alive: np.ndarray | None = None
        self._since = np.full(num_units, -1)
        self._seen = np.zeros(num_units, dtype=bool)
        self.first = np.full(num_units, np.nan)
        self.best = np.full(num_units, np.nan)
        self.before = np.full(num_units, np.nan)
        self.previous = np.full(num_units, np.nan)
        self._sums = np.zeros(3)  # over all evaluations and the units held at each: scores, falls, and their number

    def start(self, scores: np.ndarray) -> None:
        """Record the scores of the initial model."""
        self._start = scores[self._tests]

    def update(
        self, event: int, scores: np.ndarray, alive: np.ndarray, since: np.ndarray, seen: np.ndarray
    ) -> list[Row]:
        """Take the scores after `event` and return its rows.

        Events that are not evaluated are left out; a unit learned in one of them counts from the next evaluation on.
        """
        scores, alive = scores[self._tests], alive[self._tests]
        last = self._events[-1] if self._events else -1
        self._events.append(event)
        self._scores.append(scores)
        if self._alive is not None and not np.array_equal(alive, self._alive):
            self._recompute(last, alive, since)
        now, counts = self._means(scores, alive)
        started = since > last
        self.first = np.where(started, now, np.where(since >= 0, self.first, np.nan))
        self.best = np.where(started | (since < 0), np.nan, np.fmax(self.best, self.previous))
        rows = self._rows(event, last, now, counts, alive, since, seen, scores)
        self.previous = np.where(since >= 0, now, np.nan)
        self._alive, self._since, self._seen = alive, since, seen
        return rows

    def accuracy_before(self, event: int, alive: np.ndarray) -> np.ndarray:
        """Return unit accuracies ``[U]`` just before `event`, on the samples `alive`."""
        index = bisect_left(self._events, event)
        scores = self._scores[index - 1] if index else self._start
        assert scores is not None
        return self._means(scores, alive[self._tests])[0]

    def accuracy_at(self, event: int, keep: np.ndarray) -> np.ndarray:
        """Return unit accuracies ``[U]`` after `event`, on the samples `keep`."""
        return self._means(self._scores[bisect_left(self._events, event)], keep[self._tests])[0]

    def _means(self, scores: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return unit_means(scores, self._unit_of, self._position_of, self._num_units, keep)

    def _recompute(self, last: int, alive: np.ndarray, since: np.ndarray) -> None:
        """Redo first, best and previous of units that lose or regain samples, on what counts now."""
        changed = (alive != self._alive)[self._position_of]
        touched = np.zeros(self._num_units, dtype=bool)
        touched[self._unit_of[changed]] = True
        units = np.flatnonzero(touched & (since >= 0) & (since <= last))
        if not len(units):
            return
        pairs = touched[self._unit_of]
        unit_of, position_of = self._unit_of[pairs], self._position_of[pairs]
        offset = bisect_left(self._events, since[units].min())
        past = np.stack(
            [unit_means(s, unit_of, position_of, self._num_units, alive)[0] for s in self._scores[offset:-1]]
        )
        for u in units:
            curve = past[bisect_left(self._events, since[u]) - offset :, u]
            earlier = curve[:-1]
            self.first[u], self.previous[u] = curve[0], curve[-1]
            self.best[u] = np.nanmax(earlier) if np.isfinite(earlier).any() else np.nan

    def _rows(
        self,
        event: int,
        last: int,
        now: np.ndarray,
        counts: np.ndarray,
        alive: np.ndarray,
        since: np.ndarray,
        seen: np.ndarray,
        scores: np.ndarray,
    ) -> list[Row]:
        is_held = (since >= 0) & (counts > 0)
        old = is_held & (since <= last)
        rows = [
            row(event, "run", self._names[u], self._measure, now[u], int(counts[u])) for u in np.flatnonzero(counts > 0)
        ]
        none_held = "no unit with test samples is held"
        none_old = "no unit was learned before this event"
        num_held, num_old = int(is_held.sum()), int(old.sum())
        average = float(now[is_held].mean()) if num_held else None
        rows.append(row(event, "run", "stream", f"average_{self._measure}", average, num_held, none_held))
        held_sample = np.zeros(len(scores), dtype=bool)
        held_sample[self._position_of[is_held[self._unit_of]]] = True
        held_scores = scores[held_sample & alive]
        pooled = float(held_scores.mean()) if len(held_scores) else None
        rows.append(row(event, "run", "stream", f"sample_{self._measure}", pooled, len(held_scores), none_held))
        first = forgetting(now, self.first, old)
        rows.append(row(event, "run", "stream", "forgetting_from_first", first, num_old, none_old))
        best = forgetting(now, self.best, old)
        rows.append(row(event, "run", "stream", "forgetting_from_best", best, num_old, none_old))
        transfer = None if first is None else -first
        rows.append(row(event, "run", "stream", "backward_transfer", transfer, num_old, none_old))
        self._sums += now[is_held].sum(), (self.first - now)[is_held].sum(), num_held
        scores_so_far, falls_so_far, count = self._sums
        for metric, total in ((f"lifetime_{self._measure}", scores_so_far), ("lifetime_forgetting", falls_so_far)):
            mean = float(total / count) if count else None
            rows.append(row(event, "run", "stream", metric, mean, int(count), none_held))
        plasticity = float(np.nanmean(self.first[is_held])) if num_held else None
        rows.append(row(event, "run", "stream", "plasticity", plasticity, num_held, none_held))
        rows.append(self._forward_transfer(event, is_held))
        rows.extend(self._deleted(event, scores, alive, seen))
        return rows

    def _forward_transfer(self, event: int, is_held: np.ndarray) -> Row:
        """Accuracy just before a unit is learned, minus that of the initial model (Lopez-Paz and Ranzato 2017)."""
        new = np.flatnonzero(is_held & np.isnan(self.before))
        if len(self._scores) > 1 and self._start is not None and len(new):
            everything = np.ones(len(self._start), dtype=bool)
            gain = self._means(self._scores[-2], everything)[0] - self._means(self._start, everything)[0]
            self.before[new] = gain[new]
        elif len(new):
            self.before[new] = np.inf  # learned before the first evaluation: nothing came before, so it never counts
        later = np.isfinite(self.before)
        value = float(self.before[later].mean()) if later.any() else None
        reason = "no unit was learned after the first event"
        return row(event, "run", "stream", "forward_transfer", value, int(later.sum()), reason)

    def _deleted(self, event: int, scores: np.ndarray, alive: np.ndarray, seen: np.ndarray) -> list[Row]:
        reason = "no class or task is deleted"
        if alive.all():
            return [row(event, "run", "stream", f"deleted_{self._measure}", None, 0, reason)]
        dead, counts = self._means(scores, ~alive)
        units = np.flatnonzero(seen & (counts > 0))
        rows = [row(event, "run", self._names[u], f"deleted_{self._measure}", dead[u], int(counts[u])) for u in units]
        mean = float(dead[units].mean()) if len(units) else None
        rows.append(row(event, "run", "stream", f"deleted_{self._measure}", mean, len(units), reason))
        return rows
