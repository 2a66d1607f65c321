"""What many requests add up to, from rows written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lifelong.metrics.over_stream import over_stream_rows
from lifelong.results.table import Row
from streams.events import Experience, Unit
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.stream import Stream


@pytest.fixture
def stream(tools: Any) -> Stream:
    """Learn, learn, forget 3, learn, forget 2, forget 1."""
    source = tools.source(num_classes=3, per_class=6, test_per_class=2)
    ids = [np.flatnonzero((source.class_ids == c) & ~source.is_test) for c in range(3)]
    units = tuple(Unit(f"u{c}", (c,), np.flatnonzero((source.class_ids == c) & source.is_test)) for c in range(3))
    plan = Plan(source, units, tuple(Experience(f"e{c}", (c,), ids[c]) for c in range(3)))
    scheduled = [
        Learn(0),
        Learn(1),
        RequestSpec("sample", (0, 1, 2)),
        Learn(2),
        RequestSpec("sample", (3, 4)),
        RequestSpec("sample", (5,)),
    ]
    return assemble(plan, scheduled, Service(), Key(0))


def rows_of(gaps: dict[tuple[int, str], float], average: list[float], retained: list[float]) -> list[Row]:
    rows = [Row(e, "retrained", r, "gap_forget_accuracy", v, 1) for (e, r), v in gaps.items()]
    for event, a, r in zip((2, 4, 5), average, retained, strict=True):
        rows.append(Row(event, "retrained", "stream", "gap_average_accuracy", a, 1))
        rows.append(Row(event, "retrained", "stream", "gap_retain_accuracy", r, 1))
    return rows


def found(stream: Stream, rows: list[Row]) -> dict[str, Any]:
    work = {(e, "steps"): float(s) for e, s in enumerate((10, 20, 30, 30, 5, 0))}
    return {f"{r.subject}.{r.metric}": r.value for r in over_stream_rows(stream, rows, work, "accuracy")}


GAPS = {(2, "request-0"): 0.05, (4, "request-0"): -0.02, (4, "request-1"): 0.08, (5, "request-0"): 0.3}
GAPS |= {(5, "request-1"): 0.0, (5, "request-2"): -0.11}


def test_amplification_is_relative_to_the_experiences_so_far(stream: Stream) -> None:
    values = found(stream, [])
    assert values == {
        "request-0.amplification": 2.0,  # 30 steps where an experience took 10 and 20
        "request-1.amplification": 0.25,  # 5 steps after 10, 20 and 30
        "request-2.amplification": 0.0,
    }


def test_debt_and_worst_gap(stream: Stream) -> None:
    values = found(stream, rows_of(GAPS, [0.0] * 3, [0.0] * 3))
    assert values["requests.worst_abs_gap_forget_accuracy"] == pytest.approx((0.3 + 0.08 + 0.11) / 3)
    assert values["requests.debt_slope"] == pytest.approx(0.03)  # .05, .08, .11


def test_capacity_ends_where_the_score_falls(stream: Stream) -> None:
    close = dict.fromkeys(GAPS, 0.0)
    for average, capacity in (([0, 0, 0], 6), ([0, -0.009, -0.011], 5), ([0, -0.02, 0.0], 3), ([-0.02, 0, 0], 0)):
        values = found(stream, rows_of(close, [float(a) for a in average], [0.0] * 3))
        assert values["stream.deletion_capacity"] == capacity


def test_doing_nothing_has_no_capacity(stream: Stream) -> None:
    """The score is as high as ever, and so is that on what was to be forgotten."""
    for gap, capacity in ((0.5, 0), (-0.5, 0), (0.05, 6)):
        values = found(stream, rows_of(dict.fromkeys(GAPS, gap), [0.0] * 3, [0.0] * 3))
        assert values["stream.deletion_capacity"] == capacity
    assert found(stream, rows_of(GAPS, [0.0] * 3, [0.0] * 3))["stream.deletion_capacity"] == 5


def test_requests_survive_while_all_gaps_are_small(stream: Stream) -> None:
    assert found(stream, rows_of(GAPS, [0.0] * 3, [0.0] * 3))["stream.requests_survived"] == 2
    assert found(stream, rows_of(GAPS, [0.0] * 3, [0.0, -0.03, 0.0]))["stream.requests_survived"] == 1
    assert (
        found(stream, rows_of(GAPS | {(2, "request-0"): -0.2}, [0.0] * 3, [0.0] * 3))["stream.requests_survived"] == 0
    )


def test_debt_is_per_request_where_few_have_references(tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=10, test_per_class=2)
    ids = np.flatnonzero(~source.is_test)
    unit = Unit("u", (0, 1), np.flatnonzero(source.is_test))
    requests = [RequestSpec("sample", (int(i),)) for i in ids[:10]]
    stream = assemble(Plan(source, (unit,), (Experience("e", (0,), ids),)), [Learn(0), *requests], Service(), Key(0))
    for beside in (range(10), (2, 5, 8), (8, 1, 2, 5)):  # each request is served worse than the last by 0.02
        rows = [Row(1 + n, "retrained", f"request-{n}", "gap_forget_accuracy", 0.02 * n, 1) for n in beside]
        slope = {r.metric: r.value for r in over_stream_rows(stream, rows, {}, "accuracy")}["debt_slope"]
        assert slope == pytest.approx(0.02)
