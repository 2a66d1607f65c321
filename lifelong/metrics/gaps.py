"""The run against its references: gaps, distances, and what a reference scores itself."""

from __future__ import annotations

import numpy as np

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import Audit, EvaluationPlan
from lifelong.formulas.distance import cka_distance, cosine, euclidean, jensen_shannon
from lifelong.metrics.accumulation import unit_means
from lifelong.metrics.audits import counting_tests
from lifelong.metrics.requests import scores_of
from lifelong.results.table import Row, row


def stream_gap_rows(
    event: int, kind: str, run: Outputs, reference: Outputs, plan: EvaluationPlan, measure: str
) -> list[Row]:
    """Return the average score over held units of the reference, and of the run minus the reference.

    Against `joint` also the run's share of it: of the average, and the average over units of the share of each
    (relative gain, arXiv 2410.10636), where units that the reference scores 0 on are left out.
    """
    alive = plan.alive[event]
    held = plan.since[event] >= 0
    values, by_unit = [], []
    for outputs in (reference, run):
        means, counts = unit_means(outputs.scores, plan.unit_of, plan.position_of, plan.num_units, alive)
        which = held & (counts > 0)
        values.append(float(means[which].mean()) if which.any() else None)
        by_unit.append(means[which])
    n = int(held.sum())
    own, ours = values
    gap = None if own is None or ours is None else ours - own
    live = plan.probe[plan.probe_live[event]]
    retained = [float(o.scores[live].mean()) if len(live) else None for o in (reference, run)]
    retained_gap = None if retained[0] is None or retained[1] is None else retained[1] - retained[0]
    tests = counting_tests(plan, event)
    tested = [float(o.scores[tests].mean()) if len(tests) else None for o in (reference, run)]
    tested_gap = None if tested[0] is None or tested[1] is None else tested[1] - tested[0]
    empty, nothing = "no unit with test samples is held", "no training sample of the probe is live"
    rows = []
    if kind == "joint":
        share = None if own is None or ours is None or own == 0 else ours / own
        known = by_unit[0] > 0
        gain = float((by_unit[1][known] / by_unit[0][known]).mean()) if known.any() else None
        rows.append(row(event, kind, "stream", f"normalised_{measure}", share, n, "the reference scores nothing"))
        rows.append(
            row(event, kind, "stream", f"relative_{measure}", gain, int(known.sum()), "the reference scores nothing")
        )
    return rows + [
        row(event, kind, "stream", f"average_{measure}", own, n, empty),
        row(event, kind, "stream", f"gap_average_{measure}", gap, n, empty),
        row(event, kind, "stream", f"sample_{measure}", tested[0], len(tests), empty),
        row(event, kind, "stream", f"gap_sample_{measure}", tested_gap, len(tests), empty),
        row(event, kind, "stream", f"retain_{measure}", retained[0], len(live), nothing),
        row(event, kind, "stream", f"gap_retain_{measure}", retained_gap, len(live), nothing),
    ]


def request_gap_rows(
    event: int, kind: str, audit: Audit, run: Outputs, reference: Outputs, plan: EvaluationPlan, measure: str
) -> list[Row]:
    """Return what the reference scores on one request's data, and the run minus the reference.

    A gap of 0 is ideal against the retrained reference; a negative gap in score is over-unlearning.
    """
    own = scores_of(kind, event, audit, reference, plan, measure)
    ours = scores_of("run", event, audit, run, plan, measure)
    return [*own, *gap_rows(kind, ours, own)]


def gap_rows(kind: str, run: list[Row], reference: list[Row]) -> list[Row]:
    """Return the run minus the reference, row by row."""
    rows = []
    for a, b in zip(run, reference, strict=True):
        gap = None if a.value is None or b.value is None else a.value - b.value
        rows.append(row(a.event, kind, a.subject, f"gap_{a.metric}", gap, a.n, a.reason or b.reason or ""))
    return rows


def distance_rows(
    event: int, kind: str, audit: Audit, detailed: np.ndarray, run: Outputs, reference: Outputs
) -> list[Row]:
    """Return distances between run and reference on the request's test data, or on its forget set if it has none.

    js: Jensen-Shannon divergence of predicted distributions in bits. dd_*: distance of penultimate features
    (CLArena's distribution distance), euclidean, cosine and 1 - linear CKA; samples weigh the same.
    """
    chosen = audit.forget_test if len(audit.forget_test) else audit.forget
    rows_of = np.searchsorted(detailed, chosen)
    name, n = audit.request.name, len(chosen)
    result = []
    if run.probabilities is None or reference.probabilities is None:
        result.append(row(event, kind, name, "js", None, n, "the objective predicts no distribution"))
    else:
        divergence = jensen_shannon(run.probabilities[rows_of], reference.probabilities[rows_of])
        result.append(row(event, kind, name, "js", divergence, n))
    for metric, distance in (("dd_euclidean", euclidean), ("dd_cosine", cosine), ("dd_cka", cka_distance)):
        if run.features is None or reference.features is None:
            result.append(row(event, kind, name, metric, None, n, "the strategy has no single feature space"))
            continue
        value = distance(run.features[rows_of], reference.features[rows_of])
        result.append(row(event, kind, name, metric, value, n, "the features are constant"))
    return result
