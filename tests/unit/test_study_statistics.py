"""Intervals and p-values against what they promise, and against slow or hand-made twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lifelong.study.statistics import estimate, holm


@pytest.mark.parametrize(("seeds", "at_least"), [(5, 0.75), (10, 0.85), (20, 0.88)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(seeds: int, at_least: float) -> None:
    """Bootstrap intervals of few seeds are known to be too narrow; from 20 on they are near 95 %."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        e = estimate(generator.normal(loc=1.0, size=seeds).tolist())
        assert e.low is not None
        assert e.high is not None
        assert e.low <= e.mean <= e.high
        covered += e.low <= 1.0 <= e.high
    assert at_least <= covered / 150 <= 1.0


def test_skewed_values_have_an_interval() -> None:
    e = estimate([0.0] * 9 + [1.0])
    assert e.low is not None
    assert e.high is not None
    assert 0.0 <= e.low < e.mean < e.high <= 1.0


def test_one_seed_has_no_interval_and_equal_seeds_have_a_point() -> None:
    assert estimate([0.5]).low is None
    equal = estimate([0.5, 0.5, 0.5])
    assert (equal.low, equal.high, equal.p, equal.n) == (0.5, 0.5, None, 3)
    with pytest.raises(ValueError, match="no value"):
        estimate([])


def test_estimates_repeat() -> None:
    values = np.random.default_rng(1).normal(size=12).tolist()
    assert estimate(values) == estimate(values)


@pytest.mark.parametrize("count", [5, 6, 10])
def test_sign_flips_are_those_that_are_enumerated(count: int) -> None:
    generator = np.random.default_rng(count)
    for shift in (0.0, 0.5, 2.0):
        x = generator.normal(loc=shift, size=count)
        means = [abs(np.mean(x * signs)) for signs in itertools.product((-1, 1), repeat=count)]
        expected = np.mean([m >= abs(x.mean()) - 1e-12 for m in means])
        assert estimate(x.tolist()).p == pytest.approx(expected)


def test_too_few_seeds_for_a_test() -> None:
    assert estimate([1.0, 2.0, 3.0, 4.0]).p is None
    assert estimate([1.0, 2.0, 3.0, 4.0, 5.0]).p == pytest.approx(2 / 2**5)


def test_differences_that_are_all_nothing_are_no_evidence() -> None:
    assert estimate([0.0] * 6).p == pytest.approx(1.0)


def test_holm_by_hand() -> None:
    # sorted: 0.01 x 4, 0.015 x 3, 0.03 x 2, 0.04 x 1, never falling
    assert holm([0.04, 0.01, 0.03, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []
