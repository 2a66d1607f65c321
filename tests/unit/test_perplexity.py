"""The perplexity matrix, by hand: three rows of text in two domains."""

from __future__ import annotations

import numpy as np
import pytest

from lifelong.metrics.perplexity import Perplexity
from lifelong.results.table import Row


def of(rows: list[Row]) -> dict[tuple[str, str], float | None]:
    return {(r.subject, r.metric): r.value for r in rows}


def test_the_matrix_and_what_grows() -> None:
    unit_of, position_of = np.array([0, 0, 1]), np.array([0, 1, 2])
    found = Perplexity(unit_of, position_of, ["law", "code"])
    every = np.ones(3, dtype=bool)
    first = of(found.update(0, np.array([1.0, 2.0, 5.0]), every, np.array([0, -1])))
    assert first["law", "perplexity"] == pytest.approx(np.exp(1.5))
    assert first["code", "perplexity"] == pytest.approx(np.exp(5.0))  # not learned yet, and read all the same
    assert first["stream", "average_perplexity"] == pytest.approx(np.exp(1.5))
    assert first["stream", "perplexity_growth"] is None
    second = of(found.update(1, np.array([2.0, 3.0, 1.0]), every, np.array([0, 1])))
    assert second["stream", "average_perplexity"] == pytest.approx(np.exp((2.5 + 1.0) / 2))
    assert second["stream", "perplexity_growth"] == pytest.approx(np.exp(1.0))  # of law alone
    # Row 0 is deleted: what is left of law is held against the same rows then.
    third = of(found.update(2, np.array([9.0, 2.5, 1.5]), np.array([False, True, True]), np.array([0, 1])))
    assert third["law", "perplexity"] == pytest.approx(np.exp(2.5))
    assert third["stream", "perplexity_growth"] == pytest.approx(np.exp((0.5 + 0.5) / 2))


def test_a_domain_that_is_gone_counts_no_more() -> None:
    found = Perplexity(np.array([0, 1]), np.array([0, 1]), ["law", "code"])
    every = np.ones(2, dtype=bool)
    found.update(0, np.array([1.0, 2.0]), every, np.array([0, -1]))
    found.update(1, np.array([1.0, 2.0]), every, np.array([0, 1]))
    gone = of(found.update(2, np.array([7.0, 2.0]), np.array([False, True]), np.array([-1, 1])))
    assert ("law", "perplexity") not in gone
    assert gone["stream", "average_perplexity"] == pytest.approx(np.exp(2.0))
    assert gone["stream", "perplexity_growth"] == pytest.approx(1.0)


def test_a_destroyed_model_has_no_number_and_a_reason() -> None:
    found = Perplexity(np.array([0]), np.array([0]), ["law"])
    every = np.ones(1, dtype=bool)
    found.update(0, np.array([1.0]), every, np.array([0]))
    rows = found.update(1, np.array([2000.0]), every, np.array([0]))
    assert [(r.metric, r.value, r.reason) for r in rows] == [
        (metric, None, "the value is inf") for metric in ("perplexity", "average_perplexity", "perplexity_growth")
    ]
