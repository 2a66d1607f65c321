"""Attacks and comparisons with retraining, on numbers whose answer is known; each can fail, and is seen to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from lifelong.audits.readout import readout
from lifelong.audits.weights import Weights
from lifelong.evaluation.outputs import Findings
from lifelong.formulas.calibration import expected_calibration_error
from lifelong.formulas.distance import (
    activation_distance,
    jensen_shannon,
    layer_distances,
    zero_retrain_forgetting,
)
from lifelong.formulas.forgetting_score import CERTAIN, DELTA, epsilon, epsilon_bound, forgetting_score, worth
from lifelong.formulas.klom import klom
from lifelong.formulas.logistic import logistic_fits
from lifelong.formulas.membership import (
    cross_validated_accuracy,
    entropies,
    entropy_member_rate,
    membership_auc,
    membership_ks,
    membership_p,
    mia_efficacy,
    modified_entropies,
)
from lifelong.formulas.per_sample import attack, attack_p, log_ratios, rmia, rmia_p
from lifelong.formulas.quality import Quality, agreement, average_gap, request_slope, tow_factors
from lifelong.metrics.shadows import score_rows
from streams.errors import LifelongError

# --- quality --------------------------------------------------------------------------------------------------------


def test_average_gap_takes_absolute_values() -> None:
    run, reference = Quality(0.99, 0.97, 0.92, 0.5), Quality(1.00, 0.98, 0.90, 0.5)
    # UA differs by +1, RA by -1, TA by +2, MIA by 0 points.
    assert average_gap(run, reference) == pytest.approx(0.01)
    assert average_gap(reference, reference) == 0.0


def test_tow_is_the_product_of_its_factors() -> None:
    run, reference = Quality(0.90, 0.98, 0.90, 0.0), Quality(0.95, 0.99, 0.88, 0.0)
    assert tow_factors(run, reference) == pytest.approx((0.95, 0.99, 0.98))
    assert np.prod(tow_factors(run, reference)) == pytest.approx(0.92169)
    assert tow_factors(run, Quality(0.90, 0.99, 0.88, 1.0))[0] == 1.0


def test_agreement_and_slope() -> None:
    p = np.array([[0.6, 0.4], [0.3, 0.7]])
    assert agreement(p, p) == 1.0
    assert agreement(p, p[:, ::-1]) == 0.0
    assert request_slope(np.array([0.3, 0.2, 0.1, 0.0])) == pytest.approx(-0.1)
    assert request_slope(np.array([0.3, 0.2])) is None


# --- scores of attacks ----------------------------------------------------------------------------------------------


def test_entropies_by_hand() -> None:
    p, labels = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64), torch.tensor([0])
    assert float(entropies(p)) == pytest.approx(0.8018, abs=1e-4)
    assert float(modified_entropies(p, labels)) == pytest.approx(0.1622, abs=1e-4)
    # The version that takes log p where log(1 - p) belongs, as in the SVC attack of two published repositories.
    faulty = -(1 - p[0, 0]) * p[0, 0].log() - (p[0, 1:] * p[0, 1:].log()).sum()
    assert abs(float(faulty) - 0.1622) > 0.1
    sure = torch.tensor([[1.0, 0.0, 0.0]])
    assert float(entropies(sure)) == float(modified_entropies(sure, labels)) == 0.0
    assert float(modified_entropies(sure, torch.tensor([1]))) == np.inf


def test_attacks_by_entropy_find_what_is_surer_than_unseen_data() -> None:
    draw = np.random.default_rng(0)
    sharp, flat = (torch.from_numpy(scale * draw.normal(size=(100, 5))).softmax(1) for scale in (4.0, 1.0))
    zeros = np.zeros(100, dtype=int)
    assert membership_auc(entropies(sharp).numpy(), zeros, entropies(flat).numpy(), zeros) > 0.8
    labels = sharp.argmax(1)
    modified = modified_entropies(sharp, labels).numpy(), modified_entropies(flat, labels).numpy()
    assert membership_auc(modified[0], zeros, modified[1], zeros) > 0.9


def test_margins_do_not_overflow(tools: Any) -> None:
    source = tools.source()
    objective = tools.setting(source).objective
    batch = tools.lend(source, [0]).all()
    assert batch.y.tolist() == [0]
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1, 0.0]]))
    assert float(objective.margins(logits, batch)) == pytest.approx(0.8473, abs=1e-4)
    assert float(objective.margins(logits + 1000, batch)) == pytest.approx(0.8473, abs=1e-3)
    assert float(objective.margins(torch.tensor([[200.0, 0.0, 0.0, 0.0]]), batch)) == pytest.approx(200 - np.log(3))


@pytest.mark.parametrize(("like", "share"), [("unseen", 1.0), ("member", 0.0)])
def test_mia_efficacy_is_high_where_the_data_is_forgotten(like: str, share: float) -> None:
    draw = np.random.default_rng(0)
    members, unseen = draw.normal(0.9, 0.02, 200), draw.normal(0.6, 0.02, 200)
    forget = draw.normal(0.9 if like == "member" else 0.6, 0.02, 50)
    assert mia_efficacy(members, unseen, forget) == share
    order = draw.permutation(200)
    assert mia_efficacy(members[order], unseen[order[::-1]], forget) == share
    # The entropy attack points the other way: its rate is that of members.
    assert entropy_member_rate(1 - members, 1 - unseen, 1 - forget) == 1 - share


def test_attacks_find_nothing_where_there_is_nothing() -> None:
    draw = np.random.default_rng(0)
    zeros = np.zeros(100, dtype=int)
    pairs = [draw.exponential(size=(2, 100)) for _ in range(200)]
    aucs = [membership_auc(a, zeros, b, zeros) for a, b in pairs]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.01)
    assert np.std(aucs) == pytest.approx(0.042, abs=0.008)
    found = [cross_validated_accuracy(a, b, 0) for a, b in pairs[:60]]
    assert np.mean(found) == pytest.approx(0.5, abs=0.025)
    assert cross_validated_accuracy(pairs[0][0], pairs[0][1] + 5, 0) > 0.9
    assert cross_validated_accuracy(np.zeros(5), np.ones(20), 0) is None


def test_the_cross_validated_attack_is_that_of_scikit_learn() -> None:
    import sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    draw = np.random.default_rng(0)
    for seed in range(25):
        n, m = draw.integers(10, 80, size=2)
        forget, unseen = draw.exponential(size=n) * 10.0 ** draw.integers(-4, 3), draw.exponential(size=m)
        if seed % 5 == 0:  # nothing to tell by: with its default tolerance scikit-learn stops before the optimum
            forget = draw.exponential(size=n)
        x = np.clip(np.concatenate([forget, unseen]), -100, 100)[:, None]
        x, y = (x - x.mean()) / x.std(), np.repeat([1, 0], [n, m])
        splits = StratifiedShuffleSplit(n_splits=10, random_state=seed)
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            expected = cross_val_score(LogisticRegression(tol=1e-7, max_iter=10_000), x, y, cv=splits).mean()
        assert cross_validated_accuracy(forget, unseen, seed) == pytest.approx(expected, abs=1e-12)


def test_logistic_regressions_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    x = draw.normal(size=(20, 50)) * 10.0 ** draw.integers(-2, 3, size=(20, 1))
    y = (x + draw.normal(size=(20, 50)) > 0.5).astype(int)
    x[0], y[0] = np.arange(50) - 25.0, np.arange(50) >= 20  # told apart without error, far from the middle
    x[1] = 0.0  # nothing to tell by
    x[2, 0] = 1e4  # one sample far away
    weights, intercepts = logistic_fits(x, y)
    for i in range(20):
        theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(x[i][:, None], y[i])
        assert (weights[i], intercepts[i]) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-5)


def test_the_p_value_of_membership_is_uniform_without_a_leak_and_low_with_one() -> None:
    draw = np.random.default_rng(0)
    classes, others = draw.integers(3, size=30), np.concatenate([np.arange(3), draw.integers(4, size=60)])
    hardness = np.array([0.0, 2.0, 5.0, 0.0])
    p_values = []
    for _ in range(200):
        members, unseen = draw.normal(size=30) + hardness[classes], draw.normal(size=63) + hardness[others]
        p_values.append(membership_p(members, classes, unseen, others))
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)
    for side in (-4, 4):  # known, or pushed away
        assert membership_p(members + side, classes, unseen, others) == 0.005
    zeros = np.zeros(10, dtype=int)
    assert membership_p(np.ones(10), zeros, np.ones(20), np.zeros(20, dtype=int)) == 1.0, "all are equal"
    assert membership_p(np.ones(10), zeros, np.ones(20), np.ones(20, dtype=int)) is None


def test_two_sided_exposure_is_seen_by_ks_and_not_by_auc() -> None:
    draw = np.random.default_rng(0)
    zeros = np.zeros(400, dtype=int)
    others = draw.normal(size=400)
    shifted = draw.normal(size=400) + np.tile([1.5, -1.5], 200)
    assert membership_auc(shifted, zeros, others, zeros) == pytest.approx(0.5, abs=0.05)
    assert membership_ks(shifted, zeros, others, zeros) > 0.2
    assert membership_ks(draw.normal(size=400), zeros, others, zeros) < 0.12
    assert membership_ks(others, zeros, others, zeros) == 0.0
    assert membership_ks(others, zeros, others, zeros + 1) is None


def test_a_readout_finds_what_is_hidden_and_not_what_is_gone() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    hidden = draw.normal(size=(200, 5)) + 3 * labels[:, None]
    gone = draw.normal(size=(200, 5))
    for features, low, high in ((hidden, 0.95, 1.0), (gone, 0.0, 0.65)):
        train, test = features[::2], features[1::2]
        y = labels[::2]
        found = readout(train[y == 0], y[y == 0], train[y == 1], y[y == 1], test, labels[1::2])
        assert low <= found <= high


def test_calibration_error_is_what_confidence_and_accuracy_differ_by() -> None:
    confidences = np.full(50, 0.8)
    for accuracy, error in ((0.8, 0.0), (0.6, 0.2)):
        right = (np.arange(50) < 50 * accuracy).astype(np.float32)
        assert expected_calibration_error(confidences, right) == pytest.approx(error)
    # Two bins that are wrong both ways do not cancel; two ways to be wrong within a bin do.
    assert expected_calibration_error(np.array([0.6, 0.9]), np.array([1.0, 0.0])) == pytest.approx(0.65)
    assert expected_calibration_error(np.array([0.98, 0.98]), np.array([1.0, 0.0])) == pytest.approx(0.48)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.ones(2)) == 0.0
    # Of a model that is calibrated it falls with the samples, and is not 0.
    draw = np.random.default_rng(0)
    found = []
    for n in (100, 10_000):
        c = draw.uniform(0.1, 1, n)
        found.append(expected_calibration_error(c, draw.random(n) < c))
    assert 0.05 < found[0] < 0.2
    assert found[1] < 0.02


# --- distances ------------------------------------------------------------------------------------------------------


def test_zrf_uses_the_true_divergence() -> None:
    sure, uniform = np.eye(10)[:1], np.full((1, 10), 0.1)
    assert zero_retrain_forgetting(sure, uniform) == pytest.approx(0.2417, abs=1e-4)
    assert 1 - (1 - zero_retrain_forgetting(sure, uniform)) * np.log(2) == pytest.approx(0.4744, abs=1e-4)
    assert zero_retrain_forgetting(uniform, uniform) == 1.0
    assert jensen_shannon(np.eye(2)[:1], np.eye(2)[1:]) == 1.0


def test_activation_and_layer_distances() -> None:
    p, q = np.array([[0.7, 0.3], [0.5, 0.5]]), np.array([[0.3, 0.7], [0.5, 0.5]])
    assert activation_distance(p, q) == pytest.approx(0.4)
    layers = {"a": slice(0, 2), "b": slice(2, 4)}
    found = layer_distances(np.array([3.0, 4.0, 0.0, 1.0]), np.array([3.0, 0.0, 0.0, 0.0]), layers)
    assert found == {"a": pytest.approx(4 / 3), "b": 1.0}


# --- attacks on single samples --------------------------------------------------------------------------------------


def lives(models: int, targets: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Log odds that tell nothing, and which models a sample was in: exactly half of either half of the models."""
    draw = np.random.default_rng(seed)
    coin = draw.random((models // 2, targets)) < 0.5
    inside = np.empty((models, targets), dtype=bool)
    inside[::2], inside[1::2] = coin, ~coin
    return draw.normal(size=(models, targets)), inside, draw


def test_ulira_is_at_chance_where_retraining_is() -> None:
    phi, inside, _ = lives(128, 200)
    found = attack(phi, inside)
    assert found is not None
    assert found.auc == pytest.approx(0.5, abs=0.012)
    assert found.low < 0.5 < found.high
    assert found.accuracy == pytest.approx(0.5, abs=0.012)
    assert found.tpr_1 == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize("models", [16, 32])
def test_the_intervals_of_attacks_cover_chance_where_retraining_is(models: int) -> None:
    """All samples of a model move together here; resampling single models covered 80 to 87 %."""
    covered = np.zeros(2)
    for seed in range(200):
        phi, inside, draw = lives(models, 40, seed)
        phi = phi + draw.normal(size=40) + 0.7 * draw.normal(size=(models, 1))
        found = attack(phi, inside), rmia(phi, draw.normal(size=(models, 30)), inside)
        covered += [f is not None and f.low <= 0.5 <= f.high for f in found]
    assert 0.92 <= covered[0] / 200 <= 0.99
    assert covered[1] / 200 >= 0.92


def test_what_is_fitted_on_the_models_it_judges_is_refused() -> None:
    phi, inside, _ = lives(64, 200)
    every = np.arange(64)
    with pytest.raises(LifelongError, match="two halves"):
        log_ratios(phi, inside, every, every)
    # Why: fitted and judged on copies of the same numbers, chance looks like a leak.
    twice, twice_inside = np.concatenate([phi, phi]), np.concatenate([inside, inside])
    ratios = log_ratios(twice, twice_inside, every, every + 64)
    order = np.argsort(np.argsort(ratios, axis=None)).reshape(ratios.shape)
    hits, misses = order[inside], order[~inside]
    auc = np.mean(np.searchsorted(np.sort(misses), hits)) / len(misses)
    assert auc > 0.55


def test_ulira_finds_shifts_that_no_population_attack_sees() -> None:
    phi, inside, draw = lives(128, 200)
    shift = np.where(draw.random(200) < 0.5, 1.5, -1.5)
    moved = phi + inside * shift
    found = attack(moved, inside)
    assert found is not None
    assert found.auc == pytest.approx(0.85, abs=0.02)
    assert found.low > 0.8
    zeros = np.zeros(200, dtype=int)
    population = [membership_auc(-m[i], zeros[i], -m[~i], zeros[~i]) for m, i in zip(moved, inside, strict=True)]
    assert np.mean(population) == pytest.approx(0.5, abs=0.03)


def test_ulira_uses_variances_too() -> None:
    phi, inside, _ = lives(256, 200)
    found = attack(np.where(inside, 3 * phi, phi), inside)
    assert found is not None
    assert found.accuracy == pytest.approx(0.74, abs=0.02), "0.54 if the log of the deviation is left out"
    assert found.auc == pytest.approx(0.79, abs=0.02)


def test_too_few_models_and_infinite_odds_are_left_out() -> None:
    phi, inside, _ = lives(8, 5)
    phi[0, 0] = np.inf
    found = attack(phi, inside)
    assert found is None or found.n == 8 * 4
    assert attack(phi[:4], inside[:4]) is None


def test_rmia_is_at_chance_where_retraining_is_and_finds_what_is_still_known() -> None:
    phi, inside, draw = lives(32, 200)
    phi += draw.normal(size=200)  # some samples are harder than others, in every model
    unseen = draw.normal(size=(32, 100)) + draw.normal(size=100)
    found = rmia(phi, unseen, inside)
    assert found is not None
    assert found.auc == pytest.approx(0.5, abs=0.025)
    assert found.low < 0.5 < found.high
    assert found.tpr_1 < 0.05
    known = rmia(phi + 1.5 * inside, unseen, inside)
    assert known is not None
    assert known.auc == pytest.approx(0.75, abs=0.12)
    assert known.low > 0.6
    # What is sure in every model alike tells nothing: the references take it out.
    sure = rmia(phi + 8, unseen, inside)
    assert sure is not None
    assert sure.auc == pytest.approx(0.5, abs=0.03)
    assert rmia(phi, unseen[:, :0], inside) is None
    assert rmia(phi[:4], unseen[:4], inside[:4]) is None


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_pair_by_pair_also_where_gains_are_equal(gamma: float) -> None:
    """Every number of `rmia`, beside loops over models, targets and unseen samples; few values, so that many tie."""
    _, inside, draw = lives(16, 7)
    odds = np.array([-500.0, 0.0, 500.0])  # probabilities 0, 1/2 and 1, whose means have no rounding
    phi, population = odds[draw.integers(3, size=(16, 7))], odds[draw.integers(3, size=(16, 9))]
    x, z = 1 / (1 + np.exp(-phi)), 1 / (1 + np.exp(-population))
    scores = np.zeros((16, 7))
    for j in range(16):
        beside = [i for i in range(16) if i // 2 % 2 != j // 2 % 2]
        gained = [z[j, k] / np.mean([z[i, k] for i in beside]) for k in range(9)]
        for t in range(7):
            own = x[j, t] / np.mean([x[i, t] for i in beside])
            scores[j, t] = np.mean([own >= gamma * other for other in gained])
    found = rmia(phi, population, inside, gamma)
    assert found is not None
    assert found.auc == pytest.approx(roc_auc_score(inside.ravel(), scores.ravel()), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(by_pairs_of_twins(scores, inside), abs=1e-12)
    assert found.n == scores.size


def by_pairs_of_twins(scores: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """The 95 % interval around the AUC: pairs of twins are what is drawn, and the halves that judge each other err
    together, so that they count as one with the variance of both."""
    pairs = [roc_auc_score(inside[n : n + 2].ravel(), scores[n : n + 2].ravel()) for n in range(0, len(scores), 2)]
    variance = (np.var(pairs[::2], ddof=1) + np.var(pairs[1::2], ddof=1)) / 2  # of halves of one size
    width = student.ppf(0.975, len(pairs) - 2) * np.sqrt(variance / (len(pairs) / 2))
    auc = roc_auc_score(inside.ravel(), scores.ravel())
    return max(auc - width, 0.0), min(auc + width, 1.0)


def test_references_tell_rmia_how_hard_a_sample_is() -> None:
    """Samples differ by far more than membership does: only beside other models does a member stand out."""
    phi, inside, draw = lives(32, 200)
    unseen = draw.normal(size=(32, 100))
    plain = rmia(phi + 1.5 * inside, unseen, inside)
    hard = rmia(phi + 1.5 * inside + 4 * draw.normal(size=200), unseen + 4 * draw.normal(size=100), inside)
    assert plain is not None
    assert hard is not None
    assert hard.auc > 0.7
    assert plain.auc > 0.7


def known_answer(shift: float, mean: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log odds of targets, normal around a mean of each and `shift` higher in models that had it, and of others."""
    phi, inside, draw = lives(64, 100)
    return phi + draw.normal(size=100) + mean + shift * inside, draw.normal(size=(64, 200)) + mean, inside


@pytest.mark.parametrize(("shift", "best"), [(1, 0.76), (2, 0.921)])
@pytest.mark.parametrize("mean", [0, 3, 6])
def test_rmia_finds_members_of_models_that_are_sure_of_everything(shift: float, best: float, mean: float) -> None:
    """`best` is what an attack that knows all laws gets; asking for a doubling finds nothing at a mean of 6."""
    sides = known_answer(shift, mean)
    found = rmia(*sides)
    assert found is not None
    assert best - 0.12 < found.auc < best + 0.02
    assert rmia_p(*sides) == 0.005
    doubled = rmia(*sides, gamma=2.0)
    assert doubled is not None
    assert doubled.auc == pytest.approx(0.5, abs=0.01) if mean == 6 else doubled.auc < found.auc


@pytest.mark.nightly
def test_p_values_are_uniform_where_nothing_is_to_be_found_and_low_where_something_is() -> None:
    """All samples of a life move together here."""
    low = np.zeros(2)
    for seed in range(30):
        phi, inside, draw = lives(16, 30, seed)
        phi = phi + draw.normal(size=30) + 0.7 * draw.normal(size=(16, 1))
        low += [p <= 0.25 for p in (attack_p(phi, inside), rmia_p(phi, draw.normal(size=(16, 30)), inside))]
    assert 2 <= low.min() <= low.max() <= 14, "7.5 are expected"
    phi, inside, draw = lives(16, 30)
    assert attack_p(phi + 2 * inside, inside) <= 0.02
    phi[0, 0] = np.inf
    assert 0 < attack_p(phi, inside) <= 1


def test_klom_of_a_perfect_method_is_that_of_retrained_models_and_constants_are_seen() -> None:
    draw = np.random.default_rng(0)
    a, b, c = draw.normal(size=(3, 100, 100))

    def median(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.median([klom(x, y) for x, y in zip(left, right, strict=True)]))

    null = median(c, b)
    assert 0 < null < 0.8
    assert median(a, b) == pytest.approx(null, abs=0.1)
    assert median(a, b) < median(a + 1, b) < median(a + 3, b)
    # U-LiRA sees nothing where all models say the same, whoever they are; that is no forgetting, and seen here.
    assert median(np.zeros_like(a), b) > 1.5
    assert klom(a[0], a[0]) == 0.0
    assert klom(np.full(9, np.inf), np.full(9, np.inf)) == 0.0
    assert klom(np.zeros(9), np.ones(9)) == pytest.approx(-np.log(1e-5))


# --- the challenge's score ------------------------------------------------------------------------------------------


def test_forgetting_score_of_a_perfect_method_is_a_fifth() -> None:
    draw = np.random.default_rng(0)
    means: list[float] = []
    for shift in (0.0, 1.0):
        a, b = draw.normal(size=(2, 100, 64))
        means.append(forgetting_score(list(a + shift), list(b))[0])
    assert 0.1 < means[0] < 0.35
    assert means[1] < means[0] / 2
    score, eps = forgetting_score(list(a + 100), list(b))
    assert score == 0.0
    assert set(eps) == {CERTAIN}


def test_constant_outputs_are_certain_and_windows_count() -> None:
    draw = np.random.default_rng(0)
    retrained = draw.normal(size=64)
    assert epsilon(np.full(64, 0.3) + 1e-6 * draw.normal(size=64), retrained) == CERTAIN
    narrow = 0.2 * draw.normal(size=64)
    # No threshold tells a narrow law from a wide one around the same middle; a window does.
    assert epsilon(narrow, 3 * retrained) > 2.0


def test_worth_by_bins() -> None:
    assert [worth(e, 512) for e in (0.0, 0.49, 0.5, 1.0, 1.5)] == [1.0, 1.0, 0.5, 0.25, 0.125]
    assert worth(6.99, 512) == 0.5**13
    assert worth(7.0, 512) == 0.0


def test_the_bound_of_epsilon_holds() -> None:
    draw = np.random.default_rng(0)
    null = [epsilon_bound(*draw.normal(size=(2, 128))) for _ in range(100)]
    assert np.mean(np.array(null) > 0) <= 0.1
    apart = epsilon_bound(draw.normal(size=128) + 8, draw.normal(size=128))
    assert 2 < apart < 5
    # No error in 64 of a kind: each rate is below 1 - 0.025^(1 / 64) with 97.5 %, both together with 95 %.
    rate = 1 - 0.025 ** (1 / 64)
    assert apart == pytest.approx(np.log((1 - DELTA - rate) / rate))


def test_of_every_samples_divergence_the_median_and_the_largest_are_told() -> None:
    """One sample of five is still known; half of the retrained lives is held against the other."""
    draw = np.random.default_rng(0)
    margins, retrained = draw.normal(size=(40, 5)), draw.normal(size=(80, 5))
    margins[:, 4] += 6.0
    request: Any = SimpleNamespace(name="request-0")
    rows = score_rows(3, request, margins, retrained, np.ones((40, 5), dtype=bool), 1.0)
    found = {r.metric: r.value for r in rows}
    apart = [klom(margins[:, i], retrained[40:, i]) for i in range(5)]
    null = [klom(retrained[:40, i], retrained[40:, i]) for i in range(5)]
    assert found["klom_median"] == pytest.approx(np.median(apart))
    assert found["klom_95"] == pytest.approx(np.percentile(apart, 95))
    assert found["klom_median_null"] == pytest.approx(np.median(null))
    assert found["klom_95"] > 2 * found["klom_median"]


def test_distances_of_weights_are_of_the_whole_and_of_the_farthest_layer(tools: Any) -> None:
    setting = tools.setting(tools.source())
    model, audit = setting.make_model(), SimpleNamespace(setting=setting)
    reference = np.ones(len(model.parameters), dtype=np.float32)
    run, where = reference.copy(), list(model.slices.values())
    run[where[0]] += 0.1
    run[where[1]] += 0.5
    sides = [Findings(stream={"weights": w}) for w in (run, reference)]
    rows = {r.metric: r.value for r in Weights.rows_beside(audit, "retrained", 0, *sides, {})}  # type: ignore[arg-type]
    sizes = [s.stop - s.start for s in where[:2]]
    whole = np.sqrt((sizes[0] * 0.01 + sizes[1] * 0.25) / len(run))
    assert rows["layer_distance"] == pytest.approx(whole, rel=1e-4)
    assert rows["layer_distance_max"] == pytest.approx(0.5, rel=1e-4)
