"""What a report answers: who is best, what was forgotten by accident, what came back, and which events are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lifelong.config.run import RunConfig
from lifelong.execution.runner import Run
from lifelong.report.advice import advice
from lifelong.report.ages import by_age
from lifelong.report.answers import Winner, best, best_over_seeds, in_short, in_short_over_seeds
from lifelong.report.columns import Cell, Column
from lifelong.report.facts import Requested
from lifelong.report.matrix import Matrix, heat_map
from lifelong.report.summary import Group, Line
from lifelong.report.tables import falls_of
from lifelong.results.series import Series
from lifelong.results.table import Table, row
from streams.config import parse

HEADS = (
    Column("average_accuracy", "average accuracy", "score", "", better="higher"),
    Column("abs_gap_forget_accuracy", "forget gap", "distance", "", better="zero"),
    Column("request_steps", "request steps", "count", "", better="lower"),
)


def line(name: str, *values: float | None, second: float | None = None, remark: str = "") -> Line:
    cells = None if second is None else (Cell(None), Cell(second), Cell(None))
    return Line(name, tuple(Cell(value) for value in values), remark=remark, second=cells)


def test_who_is_best_and_who_is_as_good_by_chance() -> None:
    lines = (
        line("a", 0.90, 0.01, 60, second=0.02),
        line("b", 0.95, 0.015, 40, second=0.02),
        line("c", 0.80, 0.3, 10),
    )
    group = Group("retain: full", lines)
    assert best(group, HEADS) == {
        "average_accuracy": ["b"],
        "abs_gap_forget_accuracy": ["a", "b"],
        "request_steps": ["c"],
    }
    text = in_short([group], HEADS)
    assert "<strong>a</strong> (0.010), <strong>b</strong> (0.015); retraining twice differs by up to 0.020" in text
    assert "One seed: a difference may be chance." in text


@pytest.mark.parametrize(
    "lines",
    [
        (line("a", 0.9, 0.01, 60),),
        (line("a", 0.9, 0.01, 60), line("b", 0.9, 0.01, 60)),
        (line("a", 0.9, 0.01, 60), line("b", None, None, None)),
        (line("a", 0.9, 0.01, 60), line("b", 0.95, 0.0, 1, remark="collapsed")),
    ],
    ids=["alone", "equal", "unknown", "broken"],
)
def test_nobody_is_best_where_there_is_nothing_to_compare(lines: tuple[Line, ...]) -> None:
    group = Group("retain: full", lines)
    assert best(group, HEADS) == {}
    assert in_short([group], HEADS) == ""


def test_over_seeds_who_cannot_be_told_apart_is_said() -> None:
    lines = {
        "a": {seed: line("a", 0.90 + 0.01 * seed, 0.2, 10 + seed) for seed in range(4)},
        "b": {seed: line("b", 0.90 + 0.01 * seed + 0.02 * (-1) ** seed, 0.01, 20 + seed) for seed in range(4)},
        "c": {seed: line("c", 0.50 + 0.01 * seed, 0.02, 30 + seed, second=0.03) for seed in range(4)},
    }
    found = best_over_seeds(lines, HEADS)
    assert found["average_accuracy"].alike in {("a",), ("b",)}  # their paired differences lie around 0
    assert (found["abs_gap_forget_accuracy"].strategy, found["abs_gap_forget_accuracy"].alike) == ("b", ("c",))
    assert found["request_steps"] == Winner("a", 11.5, ())  # every seed says so, by the same difference
    assert "not told apart from it: c" in in_short_over_seeds({"retain: full": lines}, HEADS)
    one = {name: {0: by_seed[0]} for name, by_seed in lines.items()}
    assert best_over_seeds(one, HEADS) == {}


def matrix(held: list[list[float]], learned: list[tuple[int, str]], deletions: list[int]) -> Matrix:
    scores = np.array(held, dtype=np.float32)
    names = tuple(f"task-{i}" for i in range(len(held)))
    return Matrix(names, scores, np.full_like(scores, np.nan), scores.shape[1], learned, deletions, True)


def test_events_that_were_not_measured_are_not_drawn() -> None:
    no = np.nan
    scores = matrix([[no, no, 0.9, no, no, 0.5], [no, no, no, no, no, 0.0]], [(0, "task-0"), (4, "task-1")], [3])
    assert scores.measured == [2, 5]
    assert scores.shown(1) == [5]
    figure = heat_map(scores, scores.shown(10))
    held = next(trace for trace in figure.data if trace.name == "held")
    assert np.isfinite(np.array(held.z)).sum() == 3
    assert np.isfinite(np.array(held.z)).any(axis=0).all()
    assert list(held.x) == [-0.5, 2.5, 5.5]  # a cell reaches back to the event before it
    young = next(trace for trace in figure.data if trace.name == "not learned yet")
    assert np.isfinite(np.array(young.z, dtype=float)).tolist() == [[False, False], [True, False]]


def test_what_fell_by_itself_and_through_requests() -> None:
    no = np.nan
    # learned, learned, a request for others, learned; then task-1 is deleted
    scores = matrix(
        [[0.9, 0.8, 0.5, 0.4, 0.4], [no, 0.9, 0.9, 0.6, no]], [(0, "task-0"), (1, "task-1"), (3, "task-0")], [2, 4]
    )
    fall, through = falls_of(scores)["task-0"]
    assert fall == pytest.approx(0.5)
    assert through == pytest.approx(0.3)
    assert "task-1" not in falls_of(scores), "it is not held at the end"


def told(**strategies: tuple[float, float, float]) -> list[str]:
    """Advice on strategies: what each lost, how informed it is at the end, and how its retrained reference is."""
    tables = {
        name: Table(
            [
                row(3, "run", "stream", "average_accuracy", 0.5, 1),
                row(3, "run", "stream", "forgetting_from_first", lost, 1),
                row(3, "run", "stream", "informedness", own, 1),
                row(3, "retrained", "stream", "informedness", retrained, 1),
            ]
        )
        for name, (lost, own, retrained) in strategies.items()
    }
    learners = {name: {"learner": name, "unlearner": "none"} for name in ("naive", "ewc")}
    learners["independent"] = {"isolated": "independent"}
    config = parse(RunConfig, {"strategies": {name: learners.get(name, {}) for name in strategies}})
    return advice(Run(Path(), config, tables, dict.fromkeys(strategies, {})))


def test_advice_is_given_where_numbers_cannot_tell() -> None:
    assert told(naive=(0.0, 0.8, 0.8)) == []
    (chance,) = told(naive=(0.0, 0.01, 0.02))
    assert chance.startswith("At the end naive answers no better than chance, and so does the model retrained without")
    assert told(naive=(0.0, 0.01, 0.9)) == []  # the remark says that it collapsed
    (forgets,) = told(naive=(0.6, 0.01, 0.02), ewc=(0.1, 0.5, 0.5))
    assert forgets.startswith("naive forgets without being asked: 0.60 of accuracy is lost")
    assert forgets.endswith("A memory helps (learner: replay); so may a tuned strength.")
    (isolated,) = told(independent=(0.6, 0.01, 0.02))
    assert isolated.endswith("says little about unlearning there."), "there is no learner to change"


def test_age_counts_from_the_request() -> None:
    rows = [
        row(e, "run", name, "forget_accuracy", v, 1)
        for e, name, v in [
            (2, "one", 0.2),
            (4, "one", 0.4),
            (5, "two", 0.6),
            (7, "two", 0.8),
            (1, "one", 0.9),
        ]
    ]
    asked = [Requested(2, "one", ("class",), "", 1, ()), Requested(5, "two", ("class",), "", 1, ())]
    ages = by_age(Series(Table(rows)), "forget_accuracy", "run", asked, 8)
    assert ages == {0: pytest.approx(0.4), 2: pytest.approx(0.6)}
    long = [row(2 + age, "run", "one", "forget_accuracy", float(age), 1) for age in range(198)]
    long += [row(2 + age, "retrained", "one", "forget_accuracy", 0.5, 1) for age in (0, 7)]
    by_fours = by_age(Series(Table(long)), "forget_accuracy", "run", asked[:1], 200)
    assert list(by_fours)[:3] == [0, 4, 8]
    assert by_fours[4] == pytest.approx(5.5)
    retrained = by_age(Series(Table(long)), "forget_accuracy", "retrained", asked[:1], 200)
    assert list(retrained) == [0, 4], "what is known less often is held against the same ages"
