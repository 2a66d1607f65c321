"""The run against its references: gaps, distances, and what a reference scores itself."""

from __future__ import annotations

import numpy as np

from lifelong.evaluation.distributions import mean_over
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.formulas.distance import cka_distance, cosine, euclidean, jensen_shannon
from lifelong.metrics.accumulation import unit_means
from lifelong.metrics.requests import RequestScores
from lifelong.results.table import Row, row
from strategies.metric import Better, Metric
from streams.positions import positions_in

_NO_DISTRIBUTION = "the objective predicts no distribution"

METRICS: dict[str, Metric] = {
    "js": Metric(
        "Jensen-Shannon divergence between the predictions of run and reference on the request's data.",
        "bits",
        "lower",
        0.0,
    ),
    "js_to_retrained": Metric(
        "Jensen-Shannon divergence between the predictions of another reference and the retrained one: of retrained-2 "
        "the noise floor of js, of withheld and original what doing nothing gets.",
        "bits",
        "neither",
    ),
    "dd_euclidean": Metric(
        "Mean Euclidean distance between the features of run and reference on the request's data.",
        "feature units",
        "lower",
        0.0,
    ),
    "dd_cosine": Metric(
        "1 - mean cosine similarity between the features of run and reference on the request's data.",
        "0 to 2",
        "lower",
        0.0,
    ),
    "dd_cka": Metric(
        "1 - linear CKA between the features of run and reference on the request's data.", "0 to 1", "lower", 0.0
    ),
    "cost_ratio": Metric(
        "Samples passed forward and backward to serve the request, over those of living all surviving experiences "
        "again from the start (RTE in a unit that no machine changes).",
        "ratio",
        "lower",
    ),
}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "normalised_": ("Over the units held, the run's mean divided by the reference's: {}.", "higher"),
    "relative_": ("Mean over the units held of the run's value divided by the reference's: {}.", "higher"),
}
"""The same of the score, by prefixes to its name."""


def stream_gap_rows(
    event: int, kind: str, run: Outputs, reference: Outputs, plan: EvaluationPlan, measure: str
) -> list[Row]:
    """Return the average score over held units of the reference, and of the run minus the reference.

    Against `joint` also the run's share of it: of the average, and the average over units of the share of each
    (relative gain, arXiv 2410.10636), where units that the reference scores 0 on are left out. Scores that are minus an
    error have no such share: it would be the larger, the worse the run is.
    """
    alive = plan.alive[event]
    is_held = plan.since[event] >= 0
    values, by_unit = [], []
    for outputs in (reference, run):
        means, counts = unit_means(outputs.scores, plan.unit_of, plan.position_of, plan.num_units, alive)
        scored = is_held & (counts > 0)
        values.append(float(means[scored].mean()) if scored.any() else None)
        by_unit.append(means[scored])
    n = int(scored.sum())
    reference_average, own_average = values
    tests = plan.counting_tests(event)
    tested = [float(o.scores[tests].mean()) if len(tests) else None for o in (reference, run)]
    empty, nothing = "no unit with test samples is held", "the reference scores nothing"
    rows = []
    if kind == "joint":
        share = None
        if own_average is not None and reference_average is not None:
            share = own_average / reference_average if reference_average > 0 else None
            nothing = "the reference scores below 0" if reference_average < 0 else nothing
        above_zero = by_unit[0] > 0
        gain = float((by_unit[1][above_zero] / by_unit[0][above_zero]).mean()) if above_zero.any() else None
        rows.append(row(event, kind, "stream", f"normalised_{measure}", share, n, nothing))
        rows.append(row(event, kind, "stream", f"relative_{measure}", gain, int(above_zero.sum()), nothing))
    return rows + [
        row(event, kind, "stream", f"average_{measure}", reference_average, n, empty),
        row(event, kind, "stream", f"gap_average_{measure}", _difference(own_average, reference_average), n, empty),
        row(event, kind, "stream", f"sample_{measure}", tested[0], len(tests), empty),
        row(event, kind, "stream", f"gap_sample_{measure}", _difference(tested[1], tested[0]), len(tests), empty),
    ]


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def request_gap_rows(kind: str, request: RequestPlan, run: RequestScores, reference: RequestScores) -> list[Row]:
    """Return what the reference scores on one request's data, and the run minus the reference.

    A gap of 0 is ideal against the retrained reference; a negative gap in score is over-unlearning.
    """
    reference_rows = reference.rows(request)
    return [*reference_rows, *gap_rows(kind, run.rows(request), reference_rows)]


def gap_rows(kind: str, run: list[Row], reference: list[Row]) -> list[Row]:
    """Return the run minus the reference, for every number that both have."""
    run_rows = {(r.subject, r.metric): r for r in run}
    rows = []
    for r in reference:
        run_row = run_rows.get((r.subject, r.metric))
        if run_row is not None:
            why = run_row.reason or r.reason or ""
            rows.append(row(r.event, kind, r.subject, f"gap_{r.metric}", _difference(run_row.value, r.value), r.n, why))
    return rows


def cost_row(event: int, kind: str, request: RequestPlan, work: float, visits: float) -> Row:
    """Return what serving a request took over what living without its data takes, in samples passed."""
    share = work / visits if visits else None
    return row(event, kind, request.name, "cost_ratio", share, 1, "nothing is left to retrain")


def distance_rows(
    event: int, kind: str, request: RequestPlan, detailed: np.ndarray, run: Outputs, reference: Outputs
) -> list[Row]:
    """Return distances between run and reference on the request's test data, or on its forget set if it has none.

    js: Jensen-Shannon divergence of predicted distributions in bits. dd_*: distance of penultimate features
    (CLArena's distribution distance), euclidean, cosine and 1 - linear CKA; samples weigh the same.
    """
    at = positions_in(detailed, _chosen(request))
    name, n = request.name, len(at)
    result = [row(event, kind, name, "js", _divergence(at, run, reference), n, _NO_DISTRIBUTION)]
    for metric, distance in (("dd_euclidean", euclidean), ("dd_cosine", cosine), ("dd_cka", cka_distance)):
        if run.details.features is None or reference.details.features is None:
            result.append(row(event, kind, name, metric, None, n, "the strategy has no single feature space"))
            continue
        value = distance(run.details.features[at], reference.details.features[at])
        result.append(row(event, kind, name, metric, value, n, "the features are constant"))
    return result


def floor_row(
    event: int, kind: str, request: RequestPlan, detailed: np.ndarray, other: Outputs, retrained: Outputs
) -> Row:
    """Return the js of another reference, in place of the run's, to the retrained one."""
    at = positions_in(detailed, _chosen(request))
    divergence = _divergence(at, other, retrained)
    return row(event, kind, request.name, "js_to_retrained", divergence, len(at), _NO_DISTRIBUTION)


def _chosen(request: RequestPlan) -> np.ndarray:
    return request.forget_test if len(request.forget_test) else request.forget


def _divergence(at: np.ndarray, one: Outputs, other: Outputs) -> float | None:
    p, q = one.details.distributions, other.details.distributions
    return None if p is None or q is None else mean_over(jensen_shannon, p, q, at)
