"""Accumulation, retention and stability against tables worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lifelong.metrics.knowledge import LAGS, Knowledge, moving_average, rank_correlation, slope, stability
from lifelong.results.table import Row
from streams.events import Event, Experience

NOTHING = np.array([], dtype=np.int64)


def learn(*units: int) -> Experience:
    return Experience(f"e{units}", units, NOTHING)


def play(events: list[Event], curve: list[float], accuracies: list[list[float]], at: list[int]) -> list[dict[str, Row]]:
    followed = Knowledge(events, len(accuracies[0]), "accuracy")
    held = np.zeros(len(accuracies[0]), dtype=bool)
    found = []
    for event, whole, now in zip(at, curve, accuracies, strict=True):
        for past in events[: event + 1]:
            held[list(past.units)] = True
        found.append({r.metric: r for r in followed.update(event, whole, 10, np.array(now), held.copy())})
    return found


def test_the_curve_by_hand() -> None:
    events: list[Event] = [learn(0), learn(1), learn(2), learn(3)]
    rows = play(events, [0.2, 0.4, 0.9, 0.9], [[0.0] * 4] * 4, [0, 1, 2, 3])
    assert [r["whole_accuracy"].value for r in rows] == [0.2, 0.4, 0.9, 0.9]
    assert [r["accumulated_accuracy"].value for r in rows] == pytest.approx([0.2, 0.3, 0.5, 0.6])
    assert rows[0]["accumulation_slope"].value is None
    assert rows[0]["accumulation_slope"].reason == "only one evaluation"
    assert rows[3]["accumulation_slope"].value == pytest.approx((-1.5 * 0.2 - 0.5 * 0.4 + 0.5 * 0.9 + 1.5 * 0.9) / 5)
    assert [r["events_to_50"].value for r in rows] == [None, None, 3, 3]
    assert rows[3]["events_to_80"].value is None
    assert "retention_0" not in rows[0], "no unit comes twice"


def test_only_the_window_counts() -> None:
    events: list[Event] = [learn(0) for _ in range(60)]
    curve = [0.0] * 30 + [1.0] * 30
    rows = play(events, curve, [[0.0]] * 60, list(range(60)))
    assert rows[49]["accumulated_accuracy"].value == 1.0
    assert rows[39]["accumulated_accuracy"].value == 0.5
    assert rows[39]["events_to_50"].value == 40
    assert rows[49]["events_to_50"].value == 40, "what was reached stays reached"
    assert rows[49]["accumulated_accuracy"].n == 20


def test_retention_by_hand() -> None:
    events: list[Event] = [learn(0, 1), learn(1), learn(2), learn(0), learn(2)]
    rows = play(
        events,
        [0.5] * 5,
        [[0.9, 0.8, 0.1], [0.2, 0.9, 0.1], [0.1, 0.4, 1.0], [0.7, 0.3, 0.5], [0.6, 0.2, 1.0]],
        list(range(5)),
    )
    assert rows[0]["retention_0"].value == pytest.approx(0.85)
    assert rows[0]["retention_1"].reason == "no unit came that long ago"
    assert (rows[1]["retention_0"].value, rows[1]["retention_1"].value) == (0.9, 0.2)
    # After the third: unit 2 now, unit 1 one ago, unit 0 two ago.
    assert [rows[2][f"retention_{d}"].value for d in (0, 1, 2)] == [1.0, 0.4, 0.1]
    assert [rows[4][f"retention_{d}"].value for d in (0, 1, 2, 3)] == [1.0, 0.6, None, 0.2]
    assert rows[2]["lag_correlation"].value == -1.0
    assert rows[4]["frequency_correlation"].value is None, "all came twice"
    assert rows[2]["frequency_correlation"].value == pytest.approx(
        rank_correlation(np.array([1, 2, 1]), np.array([0.1, 0.4, 1.0]))
    )


def test_events_that_are_not_evaluated_count() -> None:
    events: list[Event] = [learn(0), learn(1), learn(2), learn(0)]
    rows = play(events, [0.5, 0.6], [[0.9, 0.5, 1.0], [0.8, 0.4, 0.6]], [2, 3])
    assert [rows[0][f"retention_{d}"].value for d in (0, 1, 2)] == [1.0, 0.5, 0.9]
    assert [rows[1][f"retention_{d}"].value for d in (0, 1, 2)] == [0.8, 0.6, 0.4]
    assert rows[1]["accumulated_accuracy"].n == 2
    assert rows[1]["accumulation_slope"].value == pytest.approx(0.1)
    assert [r["events_to_50"].value for r in rows] == [3, 3], "learn events, not evaluations"


def test_a_consolidation_teaches_no_unit() -> None:
    """Everything but the curve is as if it were not there."""
    lessons: list[Event] = [learn(0), learn(1), learn(2), learn(0)]
    again = replace(learn(0, 1), consolidates=True)
    accuracies = [[0.9, 0.5, 1.0], [0.8, 0.4, 0.6]]
    plain = play(lessons, [0.5, 0.6], accuracies, [2, 3])
    between: list[Event] = [*lessons[:2], again, lessons[2], again, lessons[3]]
    assert play(between, [0.5, 0.6], accuracies, [3, 5]) == [
        {name: replace(row, event=event) for name, row in rows.items()}
        for rows, event in zip(plain, (3, 5), strict=True)
    ]


def test_deleted_units_retain_nothing() -> None:
    followed = Knowledge([learn(0), learn(1), learn(0)], 2, "accuracy")
    held = np.array([False, True])
    rows = {r.metric: r for r in followed.update(2, None, 0, np.array([np.nan, 0.5]), held)}
    assert rows["whole_accuracy"].reason == "all test samples are deleted"
    assert rows["retention_0"].value is None
    assert rows["retention_1"].value == 0.5
    assert rows["retention_1"].n == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 50))
def test_moving_average_is_the_mean_of_the_window(curve: list[float], window: int) -> None:
    expected = [np.mean(curve[max(0, i + 1 - window) : i + 1]) for i in range(len(curve))]
    assert moving_average(np.array(curve), window) == pytest.approx(np.array(expected), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    ours = rank_correlation(a, b)
    if ours is None:
        assert len(set(a.tolist())) == 1 or len(set(b.tolist())) == 1
    else:
        assert ours == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)


def test_slope_equals_polyfit() -> None:
    generator = np.random.default_rng(0)
    at, curve = np.sort(generator.random(20)), generator.random(20)
    assert slope(at, curve) == pytest.approx(np.polyfit(at, curve, 1)[0])
    assert slope(np.array([3.0]), np.array([0.5])) is None


def test_stability_by_hand() -> None:
    # Two units before; three looks within the experience: 0.9 dips to 0.3 and recovers, 0.5 never falls.
    assert stability(np.array([0.9, 0.5]), np.array([[0.6, 0.5], [0.3, 0.7], [0.8, 0.6]])) == (0.4, 0.3)
    assert stability(np.array([0.2]), np.array([[0.5]])) == (0.5, -0.3), "it can rise"
    assert stability(NOTHING.astype(float), np.zeros((3, 0))) is None


def test_lags_are_bins_without_gaps() -> None:
    assert LAGS[0] == 0
    assert all(a < b for a, b in zip(LAGS[:-1], LAGS[1:], strict=True))
