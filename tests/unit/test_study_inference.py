"""Looks, open-ended seeds and families: how often they conclude something false, and what they can conclude."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pytest
from scipy.stats import nct, norm, t, ttest_1samp

from lifelong.study.anytime import C_SQUARED, anytime_interval, anytime_p, least_p, radius
from lifelong.study.config import StudyConfig
from lifelong.study.inference import Rule, prospect
from lifelong.study.judging import Evidence, judge
from lifelong.study.looks import level_of_each, over_looks
from lifelong.study.seeds import all_seeds, rule_of
from lifelong.study.statistics import t_interval
from streams.config import parse


def p_values(draws: np.ndarray, seeds: int) -> np.ndarray:
    """Of a zero mean, for the first seeds of each row."""
    x = draws[:, :seeds]
    found: np.ndarray = 2 * t.sf(np.abs(x.mean(1)) / x.std(1, ddof=1) * np.sqrt(seeds), seeds - 1)
    return found


@pytest.mark.parametrize("looks", [(5, 10, 20), (3, 5, 10, 20)])
def test_looks_err_together_as_seldom_as_one_would(looks: tuple[int, ...]) -> None:
    draws = np.random.default_rng(7).normal(size=(40_000, looks[-1]))
    smallest = np.min([p_values(draws, seeds) for seeds in looks], axis=0)
    level = level_of_each(looks)
    assert (smallest < level).mean() == pytest.approx(0.05, abs=0.0045)  # four standard errors
    assert (smallest < 0.05).mean() > 0.1  # as if each were the only one
    allowed = np.array([over_looks(p, looks) for p in smallest[:4000]])
    assert (allowed < 0.05).mean() == pytest.approx(0.05, abs=0.014)


@pytest.mark.parametrize(("count", "published"), [(2, 0.0294), (3, 0.0221), (5, 0.0158)])
def test_many_seeds_have_pococks_levels(count: int, published: float) -> None:
    """Of equal groups of a normal statistic, as his table has them (Pocock 1977)."""
    assert level_of_each(tuple(500 * (k + 1) for k in range(count))) == pytest.approx(published, abs=0.0005)


def test_levels_and_p_values_over_looks_are_inverse_and_rise() -> None:
    looks = (5, 10, 20)
    for level in (0.05, 0.01, 0.001):
        assert over_looks(level_of_each(looks, level), looks) == pytest.approx(level, rel=0.02)
    found = [over_looks(p, looks) for p in np.geomspace(1e-6, 1, 200)]
    assert found == sorted(found)
    assert over_looks(1e-6, looks) == pytest.approx(3e-6)
    assert over_looks(1.0, looks) == 1.0
    # One side errs about half as often as both.
    assert over_looks(0.01, looks, sides=1) == pytest.approx(over_looks(0.02, looks) / 2, rel=0.05)


def test_the_anytime_test_by_hand() -> None:
    # S = 6, V = 14: 3.1 x 14 = 43.4, less 36 is 7.4; (43.4 / 7.4)^1.5 = 14.203, times sqrt(0.1 / 3.1) = 0.17961
    assert anytime_p([1.0, 2.0, 3.0]) == pytest.approx(1 / (14.203 * 0.17961), rel=1e-3)
    assert anytime_p([1.0]) == pytest.approx(1.0)
    assert anytime_p([2.0] * 4) == pytest.approx(least_p(4)) == pytest.approx((0.1 / 4.1) ** 1.5)
    assert anytime_p([0.0, 0.0, 0.0]) == 1.0


def test_the_anytime_test_is_the_mixture_of_t_densities() -> None:
    """Scale cancels in the t statistic, so that its densities under all effect sizes are what is averaged."""
    sizes = np.linspace(-12, 12, 4001) / C_SQUARED**0.5
    weights = norm.pdf(sizes, scale=C_SQUARED**-0.5)
    for x in ([0.2, 0.5, -0.1, 0.4], [1.0, 1.2, 0.9, 1.3, 1.1], [-2.0, 1.0, 0.5]):
        n, statistic = len(x), ttest_1samp(x, 0).statistic
        ratio = nct.pdf(statistic, n - 1, sizes * n**0.5) / t.pdf(statistic, n - 1)
        mixture = np.trapezoid(ratio * weights, sizes)
        assert anytime_p(x) == pytest.approx(min(1.0, 1 / mixture), rel=1e-4)


def test_the_anytime_interval_is_what_its_test_does_not_reject() -> None:
    x = [0.3, 0.5, 0.1, 0.6, 0.35]
    low, high = anytime_interval(x)
    assert (anytime_p(x, low), anytime_p(x, high)) == (pytest.approx(0.05), pytest.approx(0.05))
    assert anytime_p(x, (low + high) / 2) > 0.05 > anytime_p(x, high + 0.01)
    assert low < t_interval(x)[0]  # the price of looking at any time
    assert anytime_p([1000 * v for v in x]) == pytest.approx(anytime_p(x))
    assert radius(2, 0.05) == np.inf


def test_looking_after_every_seed_errs_seldom_only_where_it_is_allowed() -> None:
    draws = np.random.default_rng(3).normal(size=(8000, 60))
    n = np.arange(1, 61)
    total, squares = draws.cumsum(1), (draws**2).cumsum(1)
    share = total**2 / ((n + C_SQUARED) * squares)
    anytime = np.sqrt((n + C_SQUARED) / C_SQUARED) * (1 - share) ** (n / 2)
    assert anytime[5, 9] == pytest.approx(anytime_p(draws[5, :10].tolist()), rel=1e-9) or anytime[5, 9] > 1
    assert (anytime < 0.05).any(1).mean() < 0.05
    assert np.any([p_values(draws, seeds) < 0.05 for seeds in range(3, 61)], axis=0).mean() > 0.25
    # It decides: an effect of two standard deviations, within ten seeds, nearly always.
    shifted = [anytime_p((x + 2).tolist()) for x in draws[:300, :10]]
    assert np.mean(np.array(shifted) < 0.05) > 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("rule", [Rule(), Rule(looks=(5, 10))])
def test_a_study_says_something_false_in_one_of_twenty(rule: Rule) -> None:
    """Four criteria whose numbers lie exactly at their bars: nothing that is said of them is true."""
    draws = np.random.default_rng(0).normal(size=(500, 4, 10))
    false = 0
    for study in draws:
        for seeds in rule.looks or (10,):
            family = [Evidence(str(k), "", "above", 0.0, tuple(x[:seeds])) for k, x in enumerate(study)]
            outcomes = {v.outcome for v in judge(family, rule)}
            if outcomes != {"undecided"}:
                false += 1
                break
    assert 0.02 < false / len(draws) < 0.05 + 0.03  # three standard errors


def test_open_studies_judge_margins_and_bars_by_their_interval() -> None:
    rule, near = Rule(anytime=True), (0.01, -0.01, 0.0, 0.02, 0.01, -0.02)
    family = [Evidence("", "", "within", 0.2, near), Evidence("", "", "within", 0.004, tuple(x + 1 for x in near))]
    assert [v.outcome for v in judge(family, rule)] == ["reproduced", "contradicted"]
    (wide,) = judge([Evidence("", "", "within", 0.02, near)], rule)
    assert wide.outcome == "undecided"
    # Three seeds decide one criterion where they are close together, and never two.
    three = Evidence("", "", "above", 0.0, (1.0, 1.0, 1.0))
    assert [v.outcome for v in judge([three], rule)] == ["reproduced"]
    assert [v.outcome for v in judge([three, three], rule)] == ["undecided", "undecided"]
    (few,) = judge([Evidence("", "", "above", 0.0, (1.0, 2.0))], rule)
    assert few.estimate is not None
    assert few.estimate.low is None  # no mean can be ruled out


def test_a_ratio_may_have_a_bar_that_no_logarithm_has() -> None:
    for bar, outcome in ((0.0, "reproduced"), (-1.0, "reproduced"), (2.0, "contradicted")):
        (found,) = judge([Evidence("", "", "above", bar, (1.0, 1.1, 0.9), ratio=True)], Rule())
        assert found.outcome == outcome


@pytest.mark.parametrize("bar", [0.1, 1.0, 3.0, 5.0, 7.0, 10.0])
@pytest.mark.parametrize("test", ["above", "below"])
def test_a_ratio_that_is_the_bar_for_all_seeds_is_not_beyond_it(bar: float, test: Literal["above", "below"]) -> None:
    ratio = float(np.exp(np.log(bar)))  # as a study makes it: not the bar, for most of these
    for rule in (Rule(), Rule(anytime=True)):
        (found,) = judge([Evidence("", "", test, bar, (ratio,) * 5, ratio=True)], rule)
        assert found.outcome == "contradicted"
        beyond = ratio * (1.001 if test == "above" else 0.999)
        (found,) = judge([Evidence("", "", test, bar, (beyond,) * 5, ratio=True)], rule)
        assert found.outcome == "reproduced"


def test_what_seeds_can_decide_is_told_before() -> None:
    assert "With 2 seeds none can be decided: it takes 3 or more" in prospect(Rule(), 2, 4)
    told = prospect(Rule(anytime=True), 3, 2)
    assert "With 3 seeds none can be decided (the smallest p-value is 0.065): it takes 4 or more" in told
    assert "2 criteria are judged together (Holm)" in told
    assert Rule().effect_needed(3, 1) == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert Rule().effect_needed(3, 13) == pytest.approx(t.isf(0.05 / 26, 2) / 3**0.5)
    # What is needed is just enough.
    for rule in (Rule(), Rule((5, 10)), Rule(anytime=True)):
        x = np.array([-1.0, 1.0, -1.0, 1.0, 0.5])
        x = (x - x.mean()) / x.std(ddof=1)
        for more, outcome in ((1.01, "reproduced"), (0.99, "undecided")):
            shifted = tuple(x + more * rule.effect_needed(5, 3))
            others = [Evidence("", "", "above", 0.0, tuple(x))] * 2
            assert judge([Evidence("", "", "above", 0.0, shifted), *others], rule)[0].outcome == outcome


def test_the_effect_that_would_be_seen_is_seen_four_times_in_five() -> None:
    from scipy.stats import nct

    for rule, seeds, family in ((Rule(), 5, 1), (Rule(), 20, 6), (Rule((5, 10)), 10, 3)):
        x = np.linspace(-1, 1, seeds)
        effect = rule.detectable(tuple(x), family) / x.std(ddof=1)
        critical = rule.effect_needed(seeds, family) * seeds**0.5
        assert nct.sf(critical, seeds - 1, effect * seeds**0.5) == pytest.approx(0.8, abs=0.05)
    noisy = (0.3, -0.2, 0.1, -0.3, 0.2)
    (verdict,) = judge([Evidence("", "", "above", 0.0, noisy)], Rule())
    assert verdict.reason is not None
    assert f"{Rule().detectable(noisy, 1):.2g} beyond it would be seen" in verdict.reason
    ratios = tuple(float(np.exp(v)) for v in noisy)
    (verdict,) = judge([Evidence("", "", "above", 1.0, ratios, ratio=True)], Rule())
    assert verdict.reason is not None
    assert f"a factor of {np.exp(Rule().detectable(noisy, 1)):.3g} beyond it" in verdict.reason


@pytest.mark.parametrize(
    ("asked", "seeds", "rule"),
    [
        (3, range(3), Rule()),
        ([7, 2, 5], (7, 2, 5), Rule()),
        ({"looks": [5, 10]}, range(10), Rule((5, 10))),
        ({"looks": [5, 10], "first": 200}, range(200, 210), Rule((5, 10))),
        ({"open": 4}, range(4), Rule(anytime=True)),
    ],
)
def test_seeds_say_how_a_study_may_conclude(asked: object, seeds: Iterable[int], rule: Rule) -> None:
    """Looks may begin at seeds that nobody has seen."""
    study = parse(StudyConfig, {"name": "a", "claim": "a", "base": {}, "seeds": asked})
    assert all_seeds(study.seeds) == tuple(seeds)
    assert rule_of(study.seeds) == rule
