"""Intervals and p-values against what they promise, and against slow or hand-made twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lifelong.study.statistics import equivalence, estimate, floor_margin, holm, nested_variances, t_interval


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


def test_student_intervals_cover_with_five_seeds_what_normal_ones_do_not() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    covered = np.mean([low <= 0 <= high for low, high in map(t_interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.02)
    normal = np.abs(draws.mean(1)) <= 1.96 * draws.std(1, ddof=1) / np.sqrt(5)
    assert normal.mean() == pytest.approx(0.88, abs=0.02)
    # The mean of absolute gaps is above zero where there is no gap: signed ones are tested.
    z = np.abs(draws).mean(1)
    assert z.mean() / (z.std() / np.sqrt(2000)) > 10


def test_two_perfect_answers_are_found_equal() -> None:
    """Retraining with another seed passes at its own margin in most resamples of five seeds."""
    draws = np.random.default_rng(0).normal(size=(1000, 5))
    margin = floor_margin(np.random.default_rng(1).normal(size=100_000).tolist())
    assert margin == pytest.approx(1.96, abs=0.03)
    passed = [found.p < 0.05 for found in (equivalence(d, margin) for d in draws) if found.p is not None]
    assert np.mean(passed) == pytest.approx(0.943, abs=0.02)
    apart = [equivalence(d + 2, margin).p for d in draws[:200]]
    assert np.mean(np.array(apart) < 0.05) < 0.1
    # A margin of the same few seeds is smaller: as the docstring says, it takes ten of them.
    for seeds, least, most in ((5, 0.55, 0.7), (10, 0.95, 1.0)):
        two = np.random.default_rng(2).normal(size=(2, 300, seeds))
        own = [equivalence(d, floor_margin(f)).p for d, f in zip(*two, strict=True)]
        assert least <= np.mean(np.array(own) < 0.05) <= most


def test_equivalence_is_scipys_and_its_interval_says_the_same() -> None:
    from scipy.stats import ttest_1samp

    draw = np.random.default_rng(3)
    for _ in range(50):
        x = draw.normal(loc=draw.normal(), size=6)
        found = equivalence(x.tolist(), 1.0)
        sides = (ttest_1samp(x, 1.0, alternative="less").pvalue, ttest_1samp(x, -1.0, alternative="greater").pvalue)
        assert found.p == pytest.approx(max(sides))
        assert found.low is not None
        assert found.high is not None
        assert (found.p < 0.05) == (found.low > -1.0 and found.high < 1.0)
    assert equivalence([0.0, 0.0, 0.0], 0.1).p == 0.0
    assert equivalence([0.2, 0.2], 0.1).p == 1.0
    assert equivalence([0.2], 0.1).low is None


def test_nested_variances_are_recovered_and_a_flat_interval_is_far_too_narrow() -> None:
    draw = np.random.default_rng(0)
    found, nested, flat = [], [], []
    for _ in range(500):
        train, unlearn = draw.normal(size=(5, 1, 1)), np.sqrt(0.5) * draw.normal(size=(5, 3, 1))
        values = train + unlearn + np.sqrt(0.2) * draw.normal(size=(5, 3, 3))
        found.append(nested_variances(values))
        for covered, numbers in ((nested, values.mean((1, 2))), (flat, values.ravel())):
            low, high = t_interval(numbers.tolist())
            covered.append(low <= 0 <= high)
    assert np.mean(found, axis=0) == pytest.approx([1.0, 0.5, 0.2], rel=0.1)
    assert np.mean(nested) == pytest.approx(0.95, abs=0.02)
    assert np.mean(flat) < 0.6


def test_nested_variances_by_hand() -> None:
    # Means 1 and 4 of the seeds, 1 within both: MS between 2 x 4.5 = 9, within (2 + 0) / 2.
    assert nested_variances(np.array([[0.0, 2.0], [4.0, 4.0]])) == pytest.approx((4.0, 1.0))
    assert nested_variances(np.array([[0.0, 2.0], [0.0, 2.0]])) == pytest.approx((-1.0, 2.0))
