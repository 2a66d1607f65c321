"""Every number on a page is the one that its head names: tables are taken apart, and held against what they show."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots
from scipy.stats import norm

from lifelong.config.run import RunConfig
from lifelong.report import study_tables, tables
from lifelong.report.columns import MARK, Cell, columns
from lifelong.report.facts import Facts, Learned, Requested, matrix_of
from lifelong.report.lives import Life, Point
from lifelong.report.spread import Spread, spread
from lifelong.report.study_figures import _over_requests, _places, life_costs
from lifelong.report.summary import Line
from lifelong.report.tradeoff import _bars, _panel
from lifelong.report.unlearning import correction
from lifelong.results.series import Series
from lifelong.results.table import Row, Table, row
from streams.config import parse

EVENTS, LAST = 5, 4
REQUESTS = {"request-0": 1, "request-1": 3}
STRATEGIES = ("one", "other")


def rows_of(strategy: str) -> list[Row]:
    """A number for every metric, model and event, of which no two are alike."""
    first = 0.1 if strategy == "one" else 0.5
    numbers = iter(np.arange(first, first + 0.4, 0.001))
    rows = [row(e, "run", "stream", "average_accuracy", float(next(numbers)), 1) for e in range(EVENTS)]
    rows += [row(e, "run", "task-0", "accuracy", float(next(numbers)), 1) for e in range(EVENTS)]
    rows += [row(at, "run", name, "exact", 0.0, 1) for name, at in REQUESTS.items()]
    for metric in ("forget_accuracy", "membership_auc", "gap_forget_accuracy", "js", "relapse"):
        for model in ("run", "retrained", "withheld"):
            for name, at in REQUESTS.items():
                later = range(at, EVENTS) if metric != "relapse" else range(at + 1, EVENTS)
                rows += [row(e, model, name, metric, float(next(numbers)), 1) for e in later]
    return rows


@pytest.fixture(scope="module")
def facts() -> Facts:
    config = parse(RunConfig, {"strategies": {"one": {"learner": "ewc"}, "other": {"learner": "replay"}}})
    learned = tuple(Learned(e, f"task-{e}", (f"task-{e}",), 10, 0) for e in (0, 2, 4))
    requested = tuple(Requested(e, name, ("class",), "a class", 5, ("task-0",)) for name, e in REQUESTS.items())
    run: Any = SimpleNamespace(config=config, folder=Path("nowhere"), tables={})
    series = {name: Series(Table(rows_of(name))) for name in STRATEGIES}
    units = ("task-0", "task-2", "task-4")
    return Facts(run, series, "accuracy", EVENTS, units, learned, requested, {}, {}, {})


def cells_of(html: str) -> list[list[str]]:
    """The text of all cells, row by row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, flags=re.DOTALL)
    return [[re.sub("<.*?>", "", c) for c in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", r, flags=re.DOTALL)] for r in rows]


def test_every_number_of_a_request_is_that_of_its_column(facts: Facts) -> None:
    heads, *rows = cells_of(tables.requests(facts))
    assert len(rows) == len(REQUESTS) * len(STRATEGIES)
    for cells, (name, at, strategy) in zip(
        rows, [(n, e, s) for n, e in REQUESTS.items() for s in STRATEGIES], strict=True
    ):
        assert name in cells[0]
        assert cells[1] == strategy

        def number(metric: str, event: int, model: str = "run", name: str = name, strategy: str = strategy) -> float:
            (found,) = [
                r.value
                for r in rows_of(strategy)
                if (r.event, r.model, r.subject, r.metric) == (event, model, name, metric)
            ]
            assert found is not None
            return found

        expected = {
            "retrained": number("forget_accuracy", at, "retrained"),
            "withheld": number("forget_accuracy", at, "withheld"),
            "gap": number("gap_forget_accuracy", at, "retrained"),
            "gap at the end": number("gap_forget_accuracy", LAST, "retrained"),
            "JS": number("js", at, "retrained"),
            "JS at the end": number("js", LAST, "retrained"),
            "membership AUC": number("membership_auc", at),
            "AUC of retrained": number("membership_auc", at, "retrained"),
            "relapse": number("relapse", LAST, "retrained"),
        }
        assert float(cells[2]) == pytest.approx(number("forget_accuracy", at), abs=6e-4)
        shown = dict(zip(heads[3:], map(float, cells[3:]), strict=True))
        assert shown == pytest.approx(expected, abs=6e-4)


def test_the_averages_are_those_of_their_strategy_and_event(facts: Facts) -> None:
    heads, *rows = cells_of(tables.averages(facts))
    assert tuple(heads[1:]) == STRATEGIES
    for event, cells in enumerate(rows):
        assert cells[0].startswith(f"{event}: ")
        values = [facts.series[name].value("average_accuracy", "stream", event) for name in STRATEGIES]
        assert [float(c) for c in cells[1:]] == pytest.approx(values, abs=6e-5)


def test_the_matrix_has_scores_and_deletions_where_they_belong(facts: Facts) -> None:
    matrix = matrix_of(facts, "one")
    assert list(matrix.deletions) == list(REQUESTS.values())
    assert list(matrix.learned) == [(0, "task-0"), (2, "task-2"), (4, "task-4")]
    expected = [facts.series["one"].value("accuracy", "task-0", e) for e in range(EVENTS)]
    assert matrix.held[0] == pytest.approx(expected)
    assert np.isnan(matrix.held[1:]).all()


def test_a_band_of_few_seeds_leaves_missing_values_out() -> None:
    band = spread(np.array([[0.3, np.nan, np.nan], [0.5, 0.2, np.nan]]))
    assert band.low[:2].tolist() == [0.3, 0.2]
    assert band.high[:2].tolist() == [0.5, 0.2]
    assert np.isnan([band.low[2], band.high[2]]).all()


def test_a_band_of_many_seeds_is_the_interval_that_it_is_said_to_be() -> None:
    values = np.random.default_rng(0).normal(5.0, 0.5, size=(40, 60))
    values[:20, 30:] = np.nan
    band = spread(values)
    errors = np.nanstd(values, axis=0) / np.sqrt(band.count)
    assert band.count.tolist() == [40] * 30 + [20] * 30
    for part in (slice(30), slice(30, None)):
        below, above = ((side / errors)[part].mean() for side in (band.mean - band.low, band.high - band.mean))
        assert [below, above] == pytest.approx([norm.ppf(0.975)] * 2, abs=0.1)


def test_error_bars_reach_from_the_mean_to_the_band() -> None:
    bars: Any = _bars(Spread(np.array(0.5), np.array(0.4), np.array(0.7), np.array(3)), 0)
    assert bars["array"] == pytest.approx([0.2])
    assert bars["arrayminus"] == pytest.approx([0.1])


def test_error_bars_of_requests_do_so_too() -> None:
    values = np.array([[0.4, 0.1], [0.4, 0.1], [0.7, 0.4]])
    point: Any = SimpleNamespace(
        by_request=lambda name, key: values, requests=["request-0", "request-1"], begun=[(0, "one")]
    )
    figure: go.Figure = make_subplots(rows=1, cols=1)
    _over_requests(figure, point, 0, "one", "forget", {"row": 1, "col": 1}, True)
    (drawn,) = figure.data
    assert drawn.y == pytest.approx([0.5, 0.2])
    assert drawn.error_y.array == pytest.approx([0.2, 0.2])
    assert drawn.error_y.arrayminus == pytest.approx([0.1, 0.1])


def test_what_a_life_cost_adds_up_and_what_it_keeps_does_not(facts: Facts) -> None:
    spent = {"steps": [3.0, 0.0, 2.0], "seconds": [0.5, 0.25, 4.0], "state": [8.0, 9.0, 7.0]}
    point = Point({}, ("not begun", "one"), facts, num_events=3)
    by_event = {key: np.array(values) for key, values in spent.items()}
    point.lives = {"one": {0: Life(3, True, by_event, {}, {}, {}, Line("one", ()))}}
    drawn = [t.y.tolist() for t in life_costs(point).data]
    assert drawn == [[3.0, 3.0, 5.0], [0.5, 0.75, 4.75], [8.0, 9.0, 7.0]]


def test_strategies_stand_side_by_side_around_their_request(facts: Facts) -> None:
    """Also where one before them has not begun; the lines between requests are half way."""
    point = Point({}, ("not begun", "one", "not begun either", "other"), facts)
    point.requested = {0: facts.requested}
    for name in ("one", "other"):
        point.lives[name] = {0: life(0.5, True)}
        aside = [_places(point, number) - np.arange(2) for number, _ in point.begun]
        assert np.allclose(np.sum(aside, axis=0), 0.0), "in the middle, all of them together"
        assert np.abs(aside).max() < 0.5
    assert aside[0] == pytest.approx([-0.175] * 2)


def test_the_line_of_the_front_goes_from_near_to_far() -> None:
    ends = {
        "far": {"distance": 0.3, "retained": 0.9},
        "near": {"distance": 0.1, "retained": 0.5},
        "dominated": {"distance": 0.25, "retained": 0.6},
        "middle": {"distance": 0.2, "retained": 0.7},
    }
    point: Any = SimpleNamespace(ends=lambda name, key: np.array([ends[name][key]]))
    figure: go.Figure = make_subplots(rows=1, cols=1)
    _panel(figure, point, {name: i for i, name in enumerate(ends)}, "distance", {"row": 1, "col": 1}, True)
    (front,) = [t for t in figure.data if t.name == "Pareto front"]
    assert list(zip(front.x, front.y, strict=True)) == [(0.1, 0.5), (0.2, 0.7), (0.3, 0.9)]
    assert front.line.shape == "hv", "between two strategies, what the nearer one retains is what was reached"
    points = {t.name: (t.x[0], t.y[0]) for t in figure.data if t.mode == "markers"}
    assert points == {name: tuple(values.values()) for name, values in ends.items()}
    assert [t.name for t in figure.data if t.mode == "markers" and t.marker.symbol.endswith("-open")] == ["dominated"]


def test_what_is_left_of_damage_stands_under_whose_it_is() -> None:
    values = {
        ("corrected_accuracy", "run"): 0.11,
        ("corrected_accuracy", "clean"): 0.22,
        ("corrected_accuracy", "original"): 0.33,
        ("recovery", "clean"): 0.44,
        ("attack_success", "run"): 0.55,
        ("unaffected_accuracy", "run"): 0.66,
        ("unnamed_fit", "run"): 0.77,
    }
    rows = [row(LAST, model, "stream", metric, v, 1) for (metric, model), v in values.items()]
    facts: Any = SimpleNamespace(
        measure="accuracy", num_events=EVENTS, series={"one": Series(Table(rows))}, strategies=["one"]
    )
    heads, cells = cells_of(correction(facts))
    assert dict(zip(heads, cells, strict=True)) == {
        "strategy": "one",
        "corrected accuracy": "0.110",
        "clean reference": "0.220",
        "doing nothing": "0.330",
        "recovery": "0.440",
        "attack success": "0.550",
        "unaffected accuracy": "0.660",
        "fit of what was not named": "0.770",
    }


def life(value: float, done: bool) -> Life:
    """A life whose numbers at the end are all `value`."""
    cells = tuple(Cell(value) for _ in columns("accuracy"))
    return Life(EVENTS, done, {}, {}, {}, {}, Line("one", cells))


def test_results_are_those_of_the_seeds_that_are_at_their_end(facts: Facts) -> None:
    point = Point({}, ("one", "other"), facts, access={"one": "retain: full", "other": "retain: full"})
    point.lives = {
        "one": {0: life(0.4, True), 1: life(0.2, True), 2: life(0.9, False)},
        "other": {0: life(0.7, False)},
    }
    ((_, rows),) = study_tables.results(point).groups
    by_name = {r[0]: r for r in rows}
    assert by_name["one"][1] == "2 of 3 finished"
    assert by_name["other"][1] == "0 of 1 finished"
    assert by_name["one"][3].startswith("0.300")
    assert "0.9" not in by_name["one"][3]
    assert by_name["other"][3] == "0.700"


@pytest.mark.parametrize(("grey", "of"), [(1, 2), (2, 3), (1, 3), (2, 4), (3, 4)])
def test_a_mean_says_nothing_where_most_of_its_seeds_say_nothing(grey: int, of: int, facts: Facts) -> None:
    cells = [tuple(Cell(0.25, grey="chance" if s < grey else None) for _ in columns("accuracy")) for s in range(of)]
    point = Point({}, ("one",), facts, access={"one": "retain: full"})
    point.lives = {"one": {s: Life(EVENTS, True, {}, {}, {}, {}, Line("one", c)) for s, c in enumerate(cells)}}
    grid = study_tables.results(point)
    ((_, ((*_, last),)),) = grid.groups
    assert last.endswith(MARK) == (grey > of - grey)
    assert bool(grid.footnote) == (grey > of - grey)


def test_requests_of_a_study_are_means_of_their_own_numbers(facts: Facts) -> None:
    keys = ("forget", "retrained", "withheld", "gap", "gap_end", "js", "js_end", "average_gap", "tow", "relapse_end")
    keys += ("steps", "seconds", "latency", "exposure")

    def numbers(seed: int) -> dict[str, np.ndarray]:
        return {
            k: np.array([0.01 * i + 0.2 * request + 0.05 * seed for request in range(2)]) for i, k in enumerate(keys)
        }

    point = Point({}, ("one",), facts, access={"one": "retain: full"})
    point.requested = dict.fromkeys(range(2), facts.requested)
    point.lives = {"one": {s: Life(EVENTS, True, {}, numbers(s), {}, {}, life(0.0, True).line) for s in range(2)}}
    grid = study_tables.requests(point)
    heads = [head for head, _ in grid.heads]
    columns_of = dict(zip(keys, range(heads.index("retrained") - 1, len(heads)), strict=True))
    for request, cells in enumerate(r for _, rows in grid.groups for r in rows):
        for key, column in columns_of.items():
            mean = float(np.mean([numbers(s)[key][request] for s in range(2)]))
            tolerance = {"steps": 0.51, "latency": 0.051, "exposure": 0.051}.get(key, 6e-4)
            assert float(cells[column].partition(" ")[0]) == pytest.approx(mean, abs=tolerance), (key, heads[column])
