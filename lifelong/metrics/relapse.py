"""What comes back of deleted data: how its score moves after the request, and how much of that retraining explains.

A score on deleted data falls by itself where a learner forgets, and rises by itself where related data is learned: in
the retrained reference as well, which never saw the data. Only what goes beyond is relapse.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lifelong.evaluation.plan import RequestPlan
from lifelong.metrics.requests import mean_of, mean_rows
from lifelong.results.table import Row, row
from strategies.metric import Metric
from streams.positions import positions_in

METRICS: dict[str, Metric] = {
    "relapse": Metric(
        "Change of the score on a request's deleted samples since right after the request, minus that of the retrained "
        "reference: above 0 they are coming back, below 0 they fade from a model that still knew them.",
        "as the score",
        "zero",
        0.0,
    ),
    "relapse_max": Metric("Highest relapse so far.", "as the score", "zero", 0.0),
    "relapse_test": Metric("Relapse on test data of what the request names.", "as the score", "zero", 0.0),
    "relapse_test_max": Metric("Highest relapse on test data so far.", "as the score", "zero", 0.0),
    "raw_relapse": Metric(
        "Score on a request's deleted samples now, minus right after the request. It falls most where nothing was "
        "unlearned and the learner forgets by itself, so that strategies cannot be ranked by it.",
        "as the score",
        "neither",
    ),
    "raw_relapse_max": Metric("Highest raw relapse so far.", "as the score", "neither"),
    "raw_relapse_test": Metric("Raw relapse on test data of what the request names.", "as the score", "neither"),
    "raw_relapse_test_max": Metric("Highest raw relapse on test data so far.", "as the score", "neither"),
}

_Sides = tuple[np.ndarray, ...]
"""Scores of the run, and of a reference if there is one."""


class Relapse:
    """Follows how scores on deleted data move after each request: a run's, or the run's minus a reference's."""

    def __init__(self, model: str, metric: str) -> None:
        """Start before the first request; `model` and `metric` are for the rows."""
        self._model, self._metric = model, metric
        self._served: dict[tuple[str, str], tuple[np.ndarray, _Sides]] = {}
        self._highest: dict[tuple[str, str], float] = {}

    def update(
        self, event: int, request: RequestPlan, scores: np.ndarray, reference: np.ndarray | None = None
    ) -> list[Row]:
        """Return the rows of one request after `event`; none at its own event, which must come first.

        relapse = score now - score when served, both on the samples that are still deleted; relapse_max is its highest
        value so far (a bump that went away still counts). Beside a reference, a score is the run's minus that.

        Args:
            event: index.
            request: what is left of it.
            scores: ``[N]``, of all samples of the plan.
            reference: ``[N]``, those of the reference.
        """
        whole = (scores,) if reference is None else (scores, reference)
        result = []
        for suffix, positions in (("", request.forget), ("_test", request.forget_test)):
            sides, key = tuple(side[positions] for side in whole), (request.name, suffix)
            if event == request.event:
                self._served[key] = positions, sides
            if event == request.event or key not in self._served:
                continue
            served_positions, served_sides = self._served[key]
            if positions is not served_positions:
                left = positions_in(served_positions, positions)
                served_sides = tuple(side[left] for side in served_sides)
            change = _mean(sides) - _mean(served_sides)
            if not np.isfinite(change):
                continue
            metric, n = f"{self._metric}{suffix}", len(positions)
            highest = max(self._highest.get((request.name, metric), -np.inf), change)
            self._highest[request.name, metric] = highest
            result.append(row(event, self._model, request.name, metric, change, n))
            result.append(row(event, self._model, request.name, f"{metric}_max", highest, n))
        return result


def _mean(sides: _Sides) -> float:
    """Return the mean score, minus that of the reference if there is one; NaN where nothing is."""
    if not len(sides[0]):
        return float("nan")
    means = [mean_of(side) for side in sides]
    return means[0] if len(means) == 1 else means[0] - means[1]


def mean_relapse(rows: Iterable[Row]) -> list[Row]:
    """Return means over requests of relapse beside the retrained reference.

    ``abs_relapse`` is the mean over requests of its absolute value, in which what comes back of one request cannot make
    up for what fades of another.

    Args:
        rows: relapse of every request, at every event that has a reference.
    """
    relapses: dict[int, list[Row]] = {}
    for relapse in rows:
        if relapse.metric == "relapse":
            relapses.setdefault(relapse.event, []).append(relapse)
    result = []
    for event, here in sorted(relapses.items()):
        sizes = [row(r.event, r.model, r.subject, "abs_relapse", abs(r.value or 0.0), r.n) for r in here]
        result += mean_rows(event, "retrained", [*here, *sizes], ("relapse", "abs_relapse"))
    return result
