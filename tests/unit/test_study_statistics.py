"""Intervals and p-values against what they promise, and against slow or hand-made twins."""

from __future__ import annotations

import numpy as np
import pytest

from lifelong.study.statistics import equivalence, estimate, floor_margin, holm, nested_variances, t_interval


def test_estimates_by_hand() -> None:
    # mean 2, standard deviation 1, of the mean 1 / sqrt(3); 97.5 % of t with 2 degrees of freedom is below 4.3027
    e = estimate([1.0, 2.0, 3.0], bar=1.0)
    assert (e.mean, e.n, e.bca) == (2.0, 3, None)
    assert (e.low, e.high) == (pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(4.4841, abs=1e-4))
    assert e.p == pytest.approx(0.2254, abs=1e-4)  # t = sqrt(3): 1 - sqrt(3 / 5)
    assert estimate([1.0, 2.0, 3.0], confidence=0.9).high == pytest.approx(2 + 2.91999 / 3**0.5, abs=1e-4)


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_student_intervals_cover_what_they_say_and_the_bootstrap_of_few_does_not(seeds: int) -> None:
    draws = np.random.default_rng(0).normal(loc=1.0, size=(20_000, seeds))
    half = np.array(estimate(draws[0].tolist()).high) - draws[0].mean()
    assert half == pytest.approx(_half_widths(draws[:1])[0])
    covered = np.abs(draws.mean(1) - 1.0) <= _half_widths(draws)
    assert covered.mean() == pytest.approx(0.95, abs=0.006)  # four standard errors
    if seeds == 3:  # percentiles of the bootstrap of three are the lowest and the highest
        assert ((draws.min(1) <= 1) & (draws.max(1) >= 1)).mean() == pytest.approx(0.75, abs=0.013)


def _half_widths(draws: np.ndarray) -> np.ndarray:
    from scipy.stats import t

    seeds = draws.shape[1]
    widths: np.ndarray = t.ppf(0.975, seeds - 1) * draws.std(1, ddof=1) / np.sqrt(seeds)
    return widths


def test_t_tests_are_scipys_and_their_intervals_say_the_same() -> None:
    from scipy.stats import ttest_1samp

    draw = np.random.default_rng(2)
    for _ in range(50):
        x = draw.normal(loc=0.5, size=6).tolist()
        e = estimate(x, bar=0.1)
        assert e.p == pytest.approx(ttest_1samp(x, 0.1).pvalue)
        assert e.low is not None
        assert e.high is not None
        assert (e.p < 0.05) == (not e.low <= 0.1 <= e.high)


def test_bca_stands_beside_it_from_twenty_seeds_on() -> None:
    draw = np.random.default_rng(1)
    assert estimate(draw.exponential(size=19).tolist()).bca is None
    x = draw.exponential(size=20).tolist()
    e = estimate(x)
    assert e == estimate(x)  # its resamples have a fixed seed
    assert e.bca is not None
    assert e.low is not None
    assert e.high is not None
    assert e.bca[0] + e.bca[1] > e.low + e.high  # it leans to the long tail
    assert e.bca[0] < e.mean < e.bca[1]
    rare = estimate([0.0] * 19 + [1.0])
    assert rare.low is not None
    assert rare.low < rare.mean


def test_one_seed_has_no_interval_two_have_no_p_and_equal_seeds_have_a_point() -> None:
    assert estimate([0.5]).low is None
    two = estimate([0.1, 0.2])
    assert two.low is not None
    assert two.p is None
    equal = estimate([0.5, 0.5, 0.5])
    assert (equal.low, equal.high, equal.p, equal.n) == (0.5, 0.5, 0.0, 3)
    assert estimate([0.5, 0.5]).p is None
    with pytest.raises(ValueError, match="no value"):
        estimate([])


def test_differences_that_are_all_nothing_are_no_evidence() -> None:
    assert estimate([0.0] * 6).p == 1.0


def test_holm_by_hand() -> None:
    # sorted: 0.01 x 4, 0.015 x 3, 0.03 x 2, 0.04 x 1, never falling
    assert holm([0.04, 0.01, 0.03, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []


def test_two_perfect_answers_are_found_equal() -> None:
    """Retraining with another seed passes at its own margin in most resamples of five seeds."""
    draws = np.random.default_rng(0).normal(size=(1000, 5))
    margin = floor_margin(np.random.default_rng(1).normal(size=100_000).tolist())
    assert margin == pytest.approx(1.96, abs=0.03)
    assert np.mean([equal(d, margin) for d in draws]) == pytest.approx(0.943, abs=0.02)
    assert np.mean([equal(d + 2, margin) for d in draws[:200]]) < 0.1
    # A margin of the same few seeds is smaller: as the docstring says, it takes ten of them.
    for seeds, least, most in ((5, 0.55, 0.7), (10, 0.95, 1.0)):
        two = np.random.default_rng(2).normal(size=(2, 300, seeds))
        own = [equal(d, floor_margin(f)) for d, f in zip(*two, strict=True)]
        assert least <= np.mean(own) <= most


def equal(values: np.ndarray, margin: float) -> bool:
    found = equivalence(values.tolist(), margin)
    return found.p is not None and found.p < 0.05 and abs(found.mean) <= margin


def test_equivalence_is_scipys_and_its_interval_says_the_same() -> None:
    from scipy.stats import ttest_1samp

    draw = np.random.default_rng(3)
    for _ in range(50):
        x = draw.normal(loc=draw.normal(), size=6)
        found = equivalence(x.tolist(), 1.0)
        sides = (ttest_1samp(x, 1.0, alternative="less").pvalue, ttest_1samp(x, -1.0, alternative="greater").pvalue)
        beyond = ttest_1samp(x, np.sign(x.mean())).pvalue
        within = abs(found.mean) <= 1
        assert found.p == pytest.approx(max(sides) if within else beyond)
        assert found.p is not None
        assert found.low is not None
        assert found.high is not None
        assert (within and found.p < 0.05) == (found.low > -1.0 and found.high < 1.0)
    assert equivalence([0.0, 0.0, 0.0], 0.1).p == 0.0
    assert equivalence([0.2, 0.2, 0.2], 0.1).p == 0.0  # as sure that it is beyond
    assert equivalence([0.2, 0.1], 0.1).p is None
    assert equivalence([0.2], 0.1).low is None


@pytest.mark.parametrize("mean", [0.9999, 1.0001])
def test_what_is_said_of_a_margin_is_false_in_one_of_twenty(mean: float) -> None:
    """At the margin either conclusion is true and the other false, so that the level of neither adds to the other's."""
    from scipy.stats import t

    draws = np.random.default_rng(4).normal(loc=mean, scale=0.1, size=(20_000, 5))
    means, errors = draws.mean(1), draws.std(1, ddof=1) / np.sqrt(5)
    nearer = t.sf(np.abs(np.abs(means) - 1) / errors, 4)
    p = np.where(np.abs(means) <= 1, nearer, 2 * nearer)
    assert p[0] == pytest.approx(equivalence(draws[0].tolist(), 1.0).p)
    false = (p < 0.05) & ((np.abs(means) <= 1) != (mean <= 1))
    assert false.mean() <= 0.05 + 0.006


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
