"""Tables of tuning and of several seeds, heat maps, and the marks of deletions: held against what they are made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from lifelong.report import look, seeds, tuning
from lifelong.report.columns import Cell
from lifelong.report.matrix import Matrix, heat_map
from lifelong.report.seeds import Mean, in_words, over_seeds
from lifelong.report.summary import UNFINISHED

SEARCH: dict[str, Any] = {
    "name": "mine, by the run",
    "options": {"unlearner.lr": 0.0123456, "learner.0.memory": 50},
    "note": "",
    "trials": [{"state": s} for s in ("finished", "diverged", "pruned", "finished", "finished")],
    "best_searched": 0.111111,
    "confirmed": 0.222222,
    "default": 0.333333,
    "near": 0.4,
    "near_ranges": {"unlearner.lr": (0.01, 0.02)},
    "seconds": 12345.6,
    "passes": 9876543.2,
    "helped": {"mean": 0.2, "low": 0.1, "high": 0.3},
}


def test_a_search_is_told_column_by_column() -> None:
    assert dict(zip([head for head, _ in tuning.HEADS], tuning.cells(SEARCH), strict=True)) == {
        "tuned": "mine, by the run",
        "chosen": "lr 0.01235, 0.memory 50",
        "trials": "5: 3 finished, 1 pruned, 1 diverged",
        "goal, best in search": "0.1111",
        "goal, confirmed": "0.2222; as written 0.3333",
        "near": "40%",
        "from ... to": "lr 0.01 ... 0.02",
        "seconds": "12,346",
        "passes": "9,876,543",
        "helped": "0.2 [0.1, 0.3]",
    }


def test_a_search_without_numbers() -> None:
    empty = SEARCH | {"note": "as written", "options": {}, "best_searched": None, "confirmed": None, "helped": None}
    told = dict(zip([head for head, _ in tuning.HEADS], tuning.cells(empty), strict=True))
    assert told["chosen"] == "- (as written)"
    assert told["goal, best in search"] == "-"
    assert told["goal, confirmed"] == "-; as written 0.3333"
    assert told["helped"] == "-"
    assert tuning.helped({"mean": 0.25, "low": None, "high": None}) == "0.25"
    assert tuning.helped({"mean": 0.1, "low": 0.0, "high": 0.2}).endswith("not shown to help")


VALUES = {"one": [0.25, 0.5, 0.125, None], "other": [0.75, None, None, None], "late": [1.0, 1.0, 1.0, 1.0]}


def test_means_over_seeds_are_those_of_the_seeds_that_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies by what they may read; unfinished ones do not count; a remark is that of most seeds."""

    def line(name: str, seed: int) -> Any:
        cell = Cell(VALUES[name][seed], reason="no seed has it")
        remark = "collapsed" if (name, seed) != ("one", 0) else ""
        return SimpleNamespace(strategy=name, cells=(cell, Cell(None, reason="nothing there")), remark=remark)

    def summarize(run: Any) -> list[Any]:
        read = {
            "reads all": ["late"] if run.seed else [],
            "reads": ["one", "other"],
            UNFINISHED: ["late"] * (not run.seed),
        }
        return [
            SimpleNamespace(access=access, lines=[line(n, run.seed) for n in names]) for access, names in read.items()
        ]

    monkeypatch.setattr(seeds, "summarize", summarize)
    monkeypatch.setattr(seeds, "measure_of", lambda run: "accuracy")
    monkeypatch.setattr(seeds, "columns", lambda measure: (measure, "second"))
    heads, table = over_seeds([SimpleNamespace(seed=s) for s in range(4)])  # type: ignore[misc]
    assert heads == ("accuracy", "second")
    assert [(row.strategy, row.access, row.seeds) for row in table] == [
        ("one", "reads", 4),
        ("other", "reads", 4),
        ("late", "reads all", 3),
    ]
    one, other, late = (row.means for row in table)
    there = [0.25, 0.5, 0.125]
    low, high = stats.t.interval(0.95, 2, np.mean(there), stats.sem(there))
    assert (one[0].value, one[0].seeds) == (pytest.approx(np.mean(there)), 3)
    assert one[0].half == pytest.approx((high - low) / 2)
    assert other[0] == Mean(0.75, None, 1)
    assert (late[0].value, late[0].half) == (1.0, 0.0)
    assert one[1] == Mean(None, None, 0, "nothing there")
    assert [row.remark for row in table] == ["collapsed (3 of 4)", "collapsed (4 of 4)", "collapsed (3 of 3)"]


def test_a_mean_in_words() -> None:
    assert in_words(Mean(0.25, 0.0625, 3), "gap", 3) == "+0.250 ± 0.062"
    assert in_words(Mean(0.25, 0.0625, 2), "gap", 3) == "+0.250 ± 0.062 (2)"
    assert in_words(Mean(None, None, 0), "score", 3) == "-"


def test_a_heat_map_keeps_what_is_deleted_apart_from_what_is_held() -> None:
    held = np.array([[0.5, 0.25, np.nan, 0.75], [np.nan, 0.125, 0.375, 0.625]])
    deleted = np.array([[np.nan] * 4, [np.nan, np.nan, 0.875, 1.0]])
    learned = [(0, "a"), (1, "b"), (4, "c")]
    figure = heat_map(Matrix(("a", "b"), held, deleted, 6, learned, [2, 5], True), [0, 2, 3])
    first, second, not_yet, marks = figure.data
    assert (first.name, second.name, not_yet.name) == ("held", "deleted", "not learned yet")
    assert list(first.y) == ["a", "b", "b, deleted"]
    assert list(first.x) == [-0.5, 0.5, 2.5, 3.5]
    assert np.array_equal(not_yet.z, [[np.nan] * 3, [0.0, np.nan, np.nan], [np.nan] * 3], equal_nan=True)
    assert np.array_equal(first.z, [[0.5, np.nan, 0.75], [np.nan, 0.375, 0.625], [np.nan] * 3], equal_nan=True)
    assert np.array_equal(second.z, [[np.nan] * 3, [np.nan] * 3, [np.nan, 0.875, 1.0]], equal_nan=True)
    assert (first.zmin, first.zmax) == (0, 1)
    assert list(zip(marks.x, marks.y, strict=True)) == [(0, "a"), (1, "b")]
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [(2, 2)]
    assert tuple(figure.layout.xaxis.range) == (-0.5, 5.5)
    assert list(figure.layout.yaxis.range) == [2.5, -0.5]


def test_deletions_are_marked_in_every_panel_unless_there_are_too_many() -> None:
    figure = go.Figure()
    look.mark_deletions(figure, [3, 7], num_panels=2)
    marks = [(s.xref, s.yref, s.x0, s.x1, s.opacity) for s in figure.layout.shapes]
    assert marks == [(f"x{a}", f"y{a} domain", e, e, 1.0) for a in ("", "2") for e in (3, 7)]
    many = go.Figure()
    look.mark_deletions(many, range(40))
    assert many.layout.shapes[0].opacity == 0.5
    crowded = go.Figure()
    look.mark_deletions(crowded, range(look.MAX_LINES + 1), num_panels=2)
    assert len(crowded.layout.shapes) == 0


def test_strategies_look_unlike() -> None:
    looks = [(look.colour(n), look.symbol(n), str(look.line(n, True))) for n in range(28)]
    assert len(set(looks)) == 28
    assert look.colour(6) == look.VERMILLION, "that of deletions comes last"
    assert [look.line(n, False)["mode"] for n in range(2)] == ["lines", "lines"]
