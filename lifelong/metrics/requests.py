"""What a request achieved, and whether it holds: one row of numbers per request at every later event."""

from __future__ import annotations

import math

import numpy as np

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.formulas.membership import MembershipAttack
from lifelong.results.table import Row, row
from strategies.metric import Better, Metric
from strategies.outcome import Outcome

METRICS: dict[str, Metric] = {
    "forget_loss": Metric("Mean loss on the training samples that a request deletes.", "loss", "reference"),
    "membership_auc": Metric(
        "How well the loss tells a request's deleted training samples from unseen ones of the same classes (AUC); "
        "0.5 is chance, and what counts is the distance to the retrained reference.",
        "AUC",
        "reference",
    ),
    "collateral": Metric(
        "Collateral change: how much a request changes the score of other units (absolute, summed; UnCLe's Spill).",
        "as the score",
        "lower",
        0.0,
    ),
    "collateral_mean": Metric(
        "Collateral change: how much a request changes the score of other units (absolute, mean over units).",
        "as the score",
        "lower",
        0.0,
    ),
    "retained_drop": Metric(
        "Mean over the other units of the score before the request, minus after it.", "as the score", "lower"
    ),
    "latency": Metric(
        "Learn events between a request's arrival and its service, mean over what is served together.",
        "events",
        "lower",
        0.0,
    ),
    "exposure": Metric(
        "Learn events during which the data was still in the model after the request arrived; undefined unless exact.",
        "events",
        "lower",
        0.0,
    ),
    "exact": Metric("Whether service claims to be exact (in bits or in law).", "0 or 1", "higher", 1.0),
    "certified": Metric(
        "Whether service has the grade certified(epsilon, delta), of strategies that give it: what is published can "
        "hardly tell the life from one without the data.",
        "0 or 1",
        "higher",
        1.0,
    ),
    "weights_erased": Metric(
        "0 where the request left weights that derive from its samples as they were, bit for bit: what was learned "
        "stays in the weights, and at most something beside them hides it (a guard, or nothing at all). 1 where they "
        "were changed, rebuilt or thrown away, or where none derived from the samples; it does not say how well.",
        "0 or 1",
        "higher",
        1.0,
    ),
    "attribution": Metric(
        "Accuracy on the forget set in the life without the request, minus the run's, over the same minus the "
        "retrained reference's: 1 where the request closed the gap, 0 where it did nothing (needs both references).",
        "ratio",
        "neither",
        1.0,
    ),
}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "forget_": ("On the training samples that a request deletes: {}.", "reference"),
    "forget_test_": ("On test data of the classes, tasks or users that a request names: {}.", "reference"),
}
"""The same of the score, by prefixes to its name."""


def mean_of(values: np.ndarray) -> float:
    """Return the mean of one value or more; of one, which many requests are about, without numpy's detours."""
    return float(values[0]) if len(values) == 1 else float(values.mean())


class RequestScores:
    """How one model scores on the data of requests after one event."""

    def __init__(self, model: str, event: int, outputs: Outputs, plan: EvaluationPlan, measure: str) -> None:
        """Take its outputs; `model` and `event` are for the rows, and `measure` names the score."""
        self._model, self._event, self._outputs, self._measure = model, event, outputs, measure
        self._attack = MembershipAttack(outputs.losses, plan.classes)

    def rows(self, request: RequestPlan) -> list[Row]:
        """Return the rows of one request: forget set, test data of it, membership."""
        model, event, outputs, name, measure = self._model, self._event, self._outputs, request.name, self._measure
        forget, test = request.forget, request.forget_test
        auc, why = None, "membership says nothing about data that is to be corrected"
        if request.deletion.reason != "correct":
            auc = self._attack.auc(forget, request.non_members)
            why = "a class of the forget set has no test samples"
        test_score = mean_of(outputs.scores[test]) if len(test) else None
        no_test = "no test data belongs to the request"
        return [
            row(event, model, name, f"forget_{measure}", mean_of(outputs.scores[forget]), len(forget)),
            row(event, model, name, "forget_loss", mean_of(outputs.losses[forget]), len(forget)),
            row(event, model, name, f"forget_test_{measure}", test_score, len(test), no_test),
            row(event, model, name, "membership_auc", auc, len(forget), why),
        ]


def collateral(before: np.ndarray, after: np.ndarray, others: np.ndarray) -> tuple[float, float, float] | None:
    """Return what one request did to other units: sum and mean of |after - before|, and mean of before - after.

    The sum is UnCLe's Spill (arXiv 2509.17530, eq. 4); it grows with the number of units, the mean does not.

    Args:
        before, after: unit accuracies ``[U]``.
        others: bool ``[U]``, the units to look at.

    >>> before, after = np.array([0.9, 0.8, 0.7]), np.array([0.1, 0.78, 0.71])
    >>> [round(v, 4) for v in collateral(before, after, np.array([False, True, True]))]
    [0.03, 0.015, 0.005]
    """
    others = others & np.isfinite(before) & np.isfinite(after)
    if not others.any():
        return None
    change = (before - after)[others]
    return float(np.abs(change).sum()), float(np.abs(change).mean()), float(change.mean())


def collateral_rows(
    event: int, request: RequestPlan, before: np.ndarray, after: np.ndarray, others: np.ndarray
) -> list[Row]:
    """Return the rows of `collateral` for one request."""
    values = collateral(before, after, others)
    n = int(others.sum())
    names = ("collateral", "collateral_mean", "retained_drop")
    reason = "no other unit has been learned"
    return [
        row(event, "run", request.name, name, None if values is None else values[i], n, reason)
        for i, name in enumerate(names)
    ]


def service_rows(event: int, request: RequestPlan, outcome: Outcome, learned: int) -> list[Row]:
    """Return latency and exposure of one request, in learn events.

    Latency is the wait between arrival and service. Exposure is the time during which the data was still in the
    model after the request arrived; it ends with service only if service was exact.
    """
    latency = float(np.mean([learned - r.received for r in request.deletion.requests]))
    exact = outcome.exactness in {"bits", "law"}
    exposure = latency if exact else None
    n = len(request.deletion.requests)
    certified = float(outcome.exactness == "certified")
    return [
        row(event, "run", request.name, "latency", latency, n),
        row(event, "run", request.name, "exposure", exposure, n, "not exact: the model still derives from it"),
        row(event, "run", request.name, "exact", float(exact), 1),
        row(event, "run", request.name, "weights_erased", float(outcome.weights_erased), 1),
        *([] if outcome.guarantee is None else [row(event, "run", request.name, "certified", certified, 1)]),
    ]


def mean_rows(event: int, model: str, rows: list[Row], metrics: tuple[str, ...]) -> list[Row]:
    """Return, for each metric, its mean over the requests that have a value among `rows`."""
    result = []
    for metric in metrics:
        values = [r.value for r in rows if r.metric == metric and r.value is not None]
        mean = float(np.mean(values)) if values else None
        result.append(row(event, model, "requests", metric, mean, len(values), "no request has a value"))
    return result


def attribution(run: float, no_op: float, retrained: float, n: int) -> float | None:
    """Return how much of what separates a life without the request from retraining the request brought about.

    1 closed the gap, 0 did nothing, above 1 overshoots, below 0 is the wrong way.

    Args:
        run, no_op, retrained: shares of the forget set that are predicted right.
        n: samples it was measured on.

    Returns:
        None where the gap is below three standard errors: forgetting by accident, or what generalises, has closed it.

    >>> attribution(0.6, 1.0, 0.5, 100), attribution(0.6, 0.55, 0.5, 100)
    (0.8, None)
    """
    error = math.sqrt((no_op * (1 - no_op) + retrained * (1 - retrained)) / max(n, 1))
    gap = no_op - retrained
    return None if abs(gap) <= 3 * error else (no_op - run) / gap


def attribution_rows(rows: list[Row], measure: str, is_share: bool) -> list[Row]:
    """Return the attribution of every request, at every event beside which both its references stand.

    Args:
        rows: against the references.
        measure: name of the score.
        is_share: whether the score lies between 0 and 1.
    """
    metric = f"forget_{measure}"
    scores = {(r.model, r.event, r.subject, r.metric): r for r in rows if r.metric.endswith(metric)}
    result = []
    for (model, event, subject, name), no_op in scores.items():
        retrained = scores.get(("retrained", event, subject, metric))
        if model != "no-op" or name != metric or retrained is None:
            continue
        value, why = None, "it is about scores that are shares"
        gap = scores["no-op", event, subject, f"gap_{metric}"].value
        if is_share and no_op.value is not None and retrained.value is not None and gap is not None:
            value = attribution(no_op.value + gap, no_op.value, retrained.value, no_op.n)
            why = "without the request the score is within three standard errors of retraining"
        result.append(row(event, "no-op", subject, "attribution", value, no_op.n, why))
    return result
