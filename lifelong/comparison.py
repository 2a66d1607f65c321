"""Hold a finished run against its references: compute them where they are not cached, and return the rows."""

from __future__ import annotations

from lifelong.build import make_setting, make_strategy
from lifelong.config import content_hash, resolve_strategy
from lifelong.evaluation import Evaluator, Outputs
from lifelong.files import cache_folder, code_version
from lifelong.metrics.answers import gap_rows, utility_rows
from lifelong.metrics.gaps import distance_rows, request_gap_rows, stream_gap_rows
from lifelong.metrics.requests import mean_rows
from lifelong.preparation import Prepared
from lifelong.record import Record
from lifelong.references import Cost, Point, References, chain, points_of, reference_config
from lifelong.table import Row
from streams.ledger import Ledger

_SECOND_SEED = 1_000_003
# References of one family are built alike, so their chains of events can share prefixes.
_FAMILIES = (("retrained", "original", "withheld", "fresh"), ("retrained-2",), ("no-op",), ("joint",))


def compare(p: Prepared, name: str, record: Record, evaluator: Evaluator) -> tuple[list[Row], Cost]:
    """Return the rows that hold strategy `name` against every reference that is asked for, and what that cost."""
    scores, losses = record.read_outputs(p.plan.num_outputs(len(p.stream.events) - 1))
    rows: list[Row] = []
    cost = Cost()
    for kinds in _FAMILIES:
        points = points_of(p.stream, tuple(k for k in p.config.references.kinds if k in kinds))
        if points:
            family = _family(p, name, points[0], evaluator)
            wanted = {q: (chain(p.stream, q), p.plan.detailed(q.event)) for q in points}
            for point, reference in family.compute(wanted):
                index = p.plan.num_outputs(point.event) - 1
                own = record.read_details(point.event, scores[index], losses[index])
                rows += _gaps(p, point, own, reference)
            cost += family.cost
    return rows + _mean_gaps(p, rows), cost


def _family(p: Prepared, name: str, point: Point, evaluator: Evaluator) -> References:
    """Return what computes a reference and all its relatives."""
    config = reference_config(point.kind, p.config.strategies[name])
    seed = p.config.seed + (_SECOND_SEED if point.kind == "retrained-2" else 0)
    setting = make_setting(p.config, p.stream, seed)
    task_of = p.stream.task_of
    identity = content_hash(
        [
            code_version(),
            p.data_digest,
            seed,
            {k: p.resolved[k] for k in ("model", "objective", "training", "threads", "device", "evaluation")},
            resolve_strategy(config, name),
            p.plan.ids.tolist(),
            [u.classes for u in p.stream.units],
            None if task_of is None else task_of.tolist(),
        ]
    )
    return References(
        lambda: make_strategy(config, setting, f"strategies.{name}"),
        lambda: Ledger(p.stream.source, task_of, p.config.device),
        evaluator,
        identity,
        cache_folder() / "references",
    )


def _gaps(p: Prepared, point: Point, own: Outputs, reference: Outputs) -> list[Row]:
    """Return the rows of one reference at one moment."""
    plan, measure, event, kind = p.plan, p.setting.objective.measure, point.event, point.kind
    rows = []
    detailed = plan.detailed(event)
    if kind != "no-op":
        rows += utility_rows(event, kind, plan, detailed, reference)
        rows += stream_gap_rows(event, kind, own, reference, plan, measure)
    for number, audit in enumerate(plan.audits):
        if point.request in {None, number} and audit in plan.due(event):
            rows += request_gap_rows(event, kind, audit, own, reference, plan, measure)
            rows += distance_rows(event, kind, audit, detailed, own, reference)
            rows += gap_rows(event, kind, audit, detailed, own, reference)
    return rows


def _mean_gaps(p: Prepared, rows: list[Row]) -> list[Row]:
    """Return means over requests: when each was served (immediate_*), and at the end (final_*)."""
    measure, last = p.setting.objective.measure, len(p.stream.events) - 1
    served = {a.request.name: a.event for a in p.plan.audits}
    metrics = (f"gap_forget_{measure}", f"gap_forget_test_{measure}", "gap_membership_auc", "js", "dd_cosine")
    result = []
    for kind in dict.fromkeys(r.model for r in rows):
        mine = [r for r in rows if r.model == kind and r.subject in served]
        immediate = [r for r in mine if r.event == served[r.subject]]
        final = [r for r in mine if r.event == last]
        for label, chosen in (("immediate", immediate), ("final", final)):
            for r in mean_rows(last, kind, chosen, metrics):
                result.append(_renamed(r, f"{label}_{r.metric}"))
            absolute = [_absolute(r) for r in chosen if r.metric.startswith("gap_")]
            for r in mean_rows(last, kind, absolute, metrics[:3]):
                result.append(_renamed(r, f"{label}_abs_{r.metric}"))
    return result


def _renamed(r: Row, metric: str) -> Row:
    return Row(r.event, r.model, r.subject, metric, r.value, r.n, r.reason)


def _absolute(r: Row) -> Row:
    return Row(r.event, r.model, r.subject, r.metric, None if r.value is None else abs(r.value), r.n, r.reason)
