"""What many requests add up to: debt, amplification, and how much can be deleted before the model suffers."""

from __future__ import annotations

import numpy as np

from lifelong.formulas.muse import acceleration, lasting
from lifelong.formulas.quality import request_slope
from lifelong.results.table import Row, row
from strategies.metric import Metric
from streams.events import DeletionRequest
from streams.stream import Stream

CAPACITY_LOSS = 0.01
"""Deletion capacity ends where the average score falls that far below the retrained reference's."""
UTILITY = "retain_know_mem"
"""The utility that sustainability is about (MUSE)."""
FORGET_GAP = 0.1
"""Deletion capacity and survival end where a gap to the retrained reference on any forgotten data exceeds this."""
SURVIVED_LOSS = 0.02
"""Survival ends where retained accuracy falls that far below the retrained reference's."""


METRICS: dict[str, Metric] = {
    "amplification": Metric(
        "Optimizer steps of the request over the mean steps of a learn event until then.", "ratio", "lower"
    ),
    "debt_slope": Metric(
        "Least-squares slope, on the number of the request, of the absolute gap on the forget set when it is served: "
        "above 0, each request is served worse than the last.",
        "as the score",
        "lower",
    ),
    "deletion_capacity": Metric(
        f"Training samples deleted before the average score first fell {CAPACITY_LOSS} below the retrained "
        f"reference's, or a gap on any forgotten data first exceeded {FORGET_GAP}: measured, on this stream. Not "
        "the number of deletions under a proved (epsilon, delta) guarantee that the literature calls so.",
        "samples",
        "higher",
    ),
    "requests_survived": Metric(
        f"Requests served before retained accuracy first fell {SURVIVED_LOSS} below the retrained reference's, or a "
        f"gap on any forgotten data first exceeded {FORGET_GAP}.",
        "requests",
        "higher",
    ),
    "utility_slope": Metric(
        "Least-squares slope of MUSE's utility over the requests, from before the first.",
        "percent per request",
        "higher",
        0.0,
    ),
    "utility_acceleration": Metric(
        "Utility lost over k requests, over k times that lost by the first: 1 adds up, above 1 accelerates, below 1 "
        "saturates.",
        "ratio",
        "lower",
    ),
    "utility_capacity": Metric(
        "Requests served before MUSE's utility first fell below 95 % of that before the first.", "requests", "higher"
    ),
}


def over_stream_rows(stream: Stream, rows: list[Row], work: dict[tuple[int, str], float], measure: str) -> list[Row]:
    """Return the summaries over all requests of a stream.

    Args:
        stream: what was lived through.
        rows: against the references.
        work: by (event, metric), what events cost (``steps``), and MUSE's utility after them where it was measured.
        measure: name of the score.
    """
    result = _amplification(stream, work) + _sustainability(stream, work)
    retrained = [r for r in rows if r.model == "retrained"]
    if retrained and stream.requests:
        result += _debt(stream, retrained, measure) + _capacity(stream, retrained, measure)
    return result


def _amplification(stream: Stream, work: dict[tuple[int, str], float]) -> list[Row]:
    rows: list[Row] = []
    learned, num_learned = 0.0, 0
    for index, event in enumerate(stream.events):
        steps = work.get((index, "steps"), 0.0)
        if isinstance(event, DeletionRequest):
            share = steps / (learned / num_learned) if learned else None
            rows.append(row(index, "run", event.name, "amplification", share, num_learned, "no step was ever taken"))
        else:
            learned, num_learned = learned + steps, num_learned + 1
    return rows


def _sustainability(stream: Stream, work: dict[tuple[int, str], float]) -> list[Row]:
    """Return how utility went from before the first request to after the last; nothing where it was not measured."""
    served = [i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest)]
    before = served[0] - 1 if served else -1
    curve = [work[at, UTILITY] for at in (before, *served) if (at, UTILITY) in work]
    if len(curve) < len(served) + 1 or not served:
        return []
    last, n = len(stream.events) - 1, len(served)
    slope = request_slope(np.array(curve))
    few, nothing = "there are fewer than two requests", "the first request cost nothing"
    return [
        row(last, "run", "stream", "utility_slope", slope, n, few),
        row(last, "run", "stream", "utility_acceleration", acceleration(curve), n, nothing),
        row(last, "run", "stream", "utility_capacity", lasting(curve), n),
    ]


def _debt(stream: Stream, rows: list[Row], measure: str) -> list[Row]:
    last = len(stream.events) - 1
    metric = f"gap_forget_{measure}"
    gaps: dict[str, dict[int, float]] = {}
    for r in rows:
        if r.metric == metric and r.value is not None:
            gaps.setdefault(r.subject, {})[r.event] = abs(r.value)
    served = {e.name: i for i, e in enumerate(stream.events)}
    worst = [max(curve.values()) for curve in gaps.values()]
    value = float(np.mean(worst)) if worst else None
    at_once = [gaps.get(r.name, {}).get(served[r.name]) for r in stream.requests]
    immediate = {number: gap for number, gap in enumerate(at_once) if gap is not None}  # some have no reference
    slope = request_slope(np.array([*immediate.values()]), [*immediate])
    few = "there are fewer than three requests"
    return [
        row(last, "retrained", "requests", f"worst_abs_{metric}", value, len(worst), "no request has a value"),
        row(last, "retrained", "requests", "debt_slope", slope, len(immediate), few),
    ]


def _capacity(stream: Stream, rows: list[Row], measure: str) -> list[Row]:
    """Walk along the requests until a limit is seen to be passed: beside the n requests that have a reference."""
    last = len(stream.events) - 1
    values: dict[tuple[int, str], list[float]] = {}
    for r in rows:
        if r.value is not None:
            values.setdefault((r.event, r.metric), []).append(r.value)
    deleted = survived = 0
    holds = stands = True
    for index, event in enumerate(stream.events):
        if not isinstance(event, DeletionRequest):
            continue
        gaps = values.get((index, f"gap_forget_{measure}"), [0.0])
        forgotten = max(abs(g) for g in gaps) <= FORGET_GAP
        average = min(values.get((index, f"gap_average_{measure}"), [0.0])) >= -CAPACITY_LOSS
        holds = holds and forgotten and average
        deleted += len(event.sample_ids) if holds else 0
        retained = min(values.get((index, f"gap_retain_{measure}"), [0.0])) >= -SURVIVED_LOSS
        stands = stands and forgotten and retained
        survived += stands
    beside = {r.event for r in rows}
    n = sum(index in beside for index, event in enumerate(stream.events) if isinstance(event, DeletionRequest))
    return [
        row(last, "retrained", "stream", "deletion_capacity", deleted, n),
        row(last, "retrained", "stream", "requests_survived", survived, n),
    ]
