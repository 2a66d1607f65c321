"""What comes back of deleted data: how its score moves after the request, and how much of that retraining explains.

A score on deleted data falls by itself where a learner forgets, and rises by itself where related data is learned: in
the retrained reference as well, which never saw the data. Only what goes beyond is relapse.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lifelong.evaluation.plan import RequestPlan
from lifelong.metrics.requests import mean_rows
from lifelong.results.table import Row, row
from strategies.metric import Metric

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


class Relapse:
    """Follows how scores on deleted data move after each request."""

    def __init__(self, measure: str) -> None:
        """Start before the first request."""
        self._measure = measure
        self._served: dict[tuple[str, str], float] = {}
        self._highest: dict[tuple[str, str], float] = {}

    def update(self, event: int, request: RequestPlan, rows: list[Row]) -> list[Row]:
        """Return raw relapse, given the request's rows of `scores_of` for this event.

        raw_relapse = score now - score when served; raw_relapse_max is its highest value so far (a bump that went away
        still counts).
        """
        result = []
        for metric, suffix in ((f"forget_{self._measure}", ""), (f"forget_test_{self._measure}", "_test")):
            score = next(r for r in rows if r.metric == metric)
            if score.value is None:
                continue
            key = (request.name, metric)
            if event == request.event:
                self._served[key], self._highest[key] = score.value, -np.inf
                continue
            change = score.value - self._served[key]
            self._highest[key] = max(self._highest[key], change)
            result.append(row(event, "run", request.name, f"raw_relapse{suffix}", change, score.n))
            result.append(row(event, "run", request.name, f"raw_relapse{suffix}_max", self._highest[key], score.n))
        return result


def relapse_rows(rows: Iterable[Row], requests: Iterable[RequestPlan], measure: str) -> list[Row]:
    """Return relapse beside the retrained reference at every later event that has one, and its means over requests.

    relapse = gap now - gap when served, where a gap is the run's score on the deleted data minus the reference's: the
    run's change minus the reference's. ``abs_relapse`` is the mean over requests of its absolute value, in which what
    comes back of one request cannot make up for what fades of another.

    Args:
        rows: against the references.
        requests: of the stream.
        measure: name of the score.
    """
    gaps: dict[tuple[str, str], dict[int, Row]] = {}
    for r in rows:
        if r.model == "retrained" and r.value is not None:
            gaps.setdefault((r.subject, r.metric), {})[r.event] = r
    result = []
    for metric, suffix in ((f"gap_forget_{measure}", ""), (f"gap_forget_test_{measure}", "_test")):
        for request in requests:
            curve = gaps.get((request.name, metric), {})
            if request.event in curve:
                result += _curve(curve, request, f"relapse{suffix}")
    for event in sorted({r.event for r in result}):
        here = [r for r in result if r.event == event and r.metric == "relapse"]
        sizes = [row(r.event, r.model, r.subject, "abs_relapse", abs(r.value or 0.0), r.n) for r in here]
        result += mean_rows(event, "retrained", [*here, *sizes], ("relapse", "abs_relapse"))
    return result


def _curve(curve: dict[int, Row], request: RequestPlan, metric: str) -> list[Row]:
    served, highest = curve[request.event].value or 0.0, -np.inf
    result = []
    for event in sorted(e for e in curve if e > request.event):
        beyond = (curve[event].value or 0.0) - served
        highest = max(highest, beyond)
        n = curve[event].n
        result.append(row(event, "retrained", request.name, metric, beyond, n))
        result.append(row(event, "retrained", request.name, f"{metric}_max", highest, n))
    return result
