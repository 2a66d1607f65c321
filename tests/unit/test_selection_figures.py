"""Figures of what was chosen: every cluster at its own event, and shares over those of the pool."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lifelong.report import selection
from lifelong.results.series import Series
from lifelong.results.table import Row, Table, row
from strategies.outcome import SELECTORS


def facts_of(**tables: list[Row]) -> Any:
    series = {name: Series(Table(rows)) for name, rows in tables.items()}
    requested = [SimpleNamespace(event=2)]
    return SimpleNamespace(series=series, strategies=list(tables), requested=requested, num_events=5)


def rows_of(metric: str, values: dict[str, dict[int, float]]) -> list[Row]:
    return [row(e, "run", s, metric, v, 1) for s, curve in values.items() for e, v in curve.items()]


CHOSEN = {"cluster-0": {0: 2.0, 3: 1.0}, "cluster-1": {3: 0.0}, "cluster-2": {1: 3.0}}


def test_a_cluster_is_drawn_where_it_was_there() -> None:
    facts = facts_of(mine=rows_of("selector", CHOSEN))
    (drawn,) = selection.selectors(facts, "mine").data
    assert list(drawn.x) == ["0", "1", "3"]
    assert list(drawn.y) == list(CHOSEN)
    nan = np.nan
    assert np.array_equal(drawn.z, [[2, nan, 1], [nan, nan, 0], [nan, 3, nan]], equal_nan=True)
    named = [["" if np.isnan(v) else SELECTORS[int(v)] for v in line] for line in np.asarray(drawn.z, dtype=float)]
    assert [list(line) for line in drawn.text] == named
    colours = [colour for _, colour in drawn.colorscale]
    assert len(drawn.colorscale) == 2 * len(SELECTORS)
    assert colours[::2] == colours[1::2]


def test_a_share_is_drawn_over_that_of_the_pool() -> None:
    drawn = {"numbers": {0: 0.5, 1: 0.3}, "letters": {0: 0.5, 1: 0.7}}
    pool = {"numbers": {0: 0.25, 1: 0.6}, "letters": {0: 0.75, 1: 0.0}}
    figure = selection.shares(facts_of(mine=rows_of("draw_share", drawn) + rows_of("pool_share", pool)), "mine")
    lines = {t.name: (list(t.x), [float(v) for v in t.y]) for t in figure.data}
    assert lines["numbers"] == ([0, 1], pytest.approx([2.0, 0.5]))
    assert lines["letters"][1][0] == pytest.approx(2 / 3)
    assert np.isnan(lines["letters"][1][1]), "nothing of it is in the pool"
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [(2, 2)]


def test_who_chooses_and_who_does_it_by_clusters() -> None:
    share, selector = rows_of("draw_share", {"numbers": {0: 1.0}}), rows_of("selector", CHOSEN)
    clusters = rows_of("cluster_draw", {"cluster-0": {0: 1.0}})
    facts = facts_of(
        plain=rows_of("accuracy", {"stream": {0: 1.0}}),
        drawn=share,
        scored=share + selector,
        clustered=share + clusters,
        both=share + clusters + selector,
    )
    assert selection.described(facts) == ["drawn", "scored", "clustered", "both"]
    assert selection.clustered(facts) == ["both"]
