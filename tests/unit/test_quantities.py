"""One number of a run: which rows it is made of, held against a loop over all of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lifelong.results.table import Row, Table, row
from lifelong.study.quantities import Quantity, in_words, over_points, value_of

SERVED = {"request-0": 2, "request-1": 4}


def rows() -> list[Row]:
    """Numbers of which no two are alike, one of them missing; rows of other subjects, metrics and models among them."""
    numbers = itertools.count(1)
    found = [
        row(event, model, subject, metric, next(numbers) / 97 * (-1) ** event, 1)
        for event in (4, 0, 3, 1, 2)  # rows need not come in order
        for model in ("run", "retrained")
        for subject in ("stream", "task-0")
        for metric in ("accuracy", "loss")
    ]
    found += [row(at, "run", name, "exact", 1.0, 1) for name, at in SERVED.items()]
    return [r for r in found if (r.event, r.metric) != (3, "loss")] + [row(3, "run", "stream", "loss", None, 0, "none")]


TABLE = Table(rows())


@pytest.mark.parametrize("reduce", ["one", "mean", "sum", "max", "min"])
@pytest.mark.parametrize("event", ["last", 0, 3, 1, "request-0", "request-1", "request-7"])
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("model", ["run", "retrained"])
def test_a_quantity_is_that_of_its_own_rows(reduce: Any, event: Any, metric: str, model: str) -> None:
    at = 99 if event == "last" else SERVED.get(event, -1) if isinstance(event, str) else event
    own = {
        r.event: r.value
        for r in rows()
        if (r.model, r.subject, r.metric) == (model, "task-0", metric) and r.value is not None
    }
    if reduce == "one":
        expected = own.get(max(own) if event == "last" else at)
    else:
        until = [v for e, v in own.items() if e <= at]
        total = {"mean": sum(until) / max(len(until), 1), "sum": sum(until)}
        expected = None if not until else total.get(reduce, {"max": max, "min": min}.get(reduce, max)(until))
    quantity = Quantity(metric=metric, subject="task-0", model=model, event=event, reduce=reduce)
    assert value_of(TABLE, quantity) == (None if expected is None else pytest.approx(expected))


def test_what_is_missing_is_no_number() -> None:
    assert value_of(TABLE, Quantity(metric="loss", event=3)) is None
    assert value_of(TABLE, Quantity(metric="nothing")) is None


def test_what_is_infinite_in_the_end_was_not_fine_before() -> None:
    """A model that broke down has no perplexity in the end; one whose units are gone has the last that there was."""

    def ended(end: float | None) -> list[float | None]:
        rows = [row(event, "run", "stream", "perplexity", v, 1, "none") for event, v in ((0, 3.0), (1, end))]
        asked = [Quantity(metric="perplexity"), Quantity(metric="perplexity", event=0)]
        return [value_of(Table(rows), q) for q in (*asked, Quantity(metric="perplexity", reduce="max"))]

    assert ended(float("inf")) == [None, 3.0, None]
    assert ended(None) == [3.0, 3.0, 3.0]


def test_above_chance_is_a_share_of_what_is_left_above_it() -> None:
    table = Table([row(0, "run", "stream", "accuracy", 0.6, 1)])
    plain = Quantity(metric="accuracy", chance=0.2)
    assert value_of(table, plain) == 0.6
    assert value_of(table, plain.model_copy(update={"above_chance": True})) == pytest.approx(0.5)


def test_seeds_without_all_points_are_left_out_of_means_over_points() -> None:
    values = {("a", 5): 1.0, ("b", 5): 4.0, ("b", 2): 2.0, ("a", 2): 10.0, ("a", 3): 7.0}
    assert over_points(values) == {2: 6.0, 5: 2.5}
    assert list(over_points(values)) == [2, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "js"),
        ({"model": "retrained"}, "js (retrained)"),
        ({"subject": "requests"}, "js of requests"),
        ({"reduce": "mean"}, "mean of js"),
        ({"chance": 0.1}, "js"),
        ({"chance": 0.1, "above_chance": True}, "js above chance (0.1)"),
        ({"event": 3}, "js at event 3"),
        ({"event": 3, "reduce": "sum"}, "sum of js until event 3"),
        ({"event": "request-2"}, "js at request-2"),
        ({"where": {"seed": 1, "lr": 0.5}}, "js where seed=1, lr=0.5"),
    ],
)
def test_a_quantity_in_words(options: dict[str, Any], words: str) -> None:
    assert in_words(Quantity(metric="js", **options)) == words
