"""Attacks on single samples with many models: LiRA, U-LiRA and RMIA.

Every model has lived with a random half of the targets. Where a sample was learned and unlearned it is *in*, where it
never occurred it is *out*; both kinds have unlearned something, so that they differ in nothing but the sample. The
attack compares the likelihoods of the log odds of the label under both (Carlini et al. 2022, arXiv 2112.03570; Hayes et
al. 2025, arXiv 2403.01218). For a model that forgets as retraining does both have the same law, and nothing can do
better than chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streams.errors import LifelongError

OWN_VARIANCE = 64
"""From that many models of a kind on, every sample has variances of its own; below, they are pooled over samples."""
GAMMA = 2.0
"""How many times as likely x must have become as z, beside the reference models, for x to count as known (RMIA)."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Attack:
    """What an attack achieves, pooled over samples and models.

    Attributes:
        auc: area under the curve of the log likelihood ratio; 0.5 is chance.
        low, high: its 95 % interval, from what pairs of twin models differ by (all samples of a model depend on each
            other).
        accuracy: of calling a sample *in* where the ratio is above 1.
        tpr_1, tpr_01: true positive rate at a false positive rate of 1 % and of 0.1 %.
        n: pairs of model and sample.
    """

    auc: float
    low: float
    high: float
    accuracy: float
    tpr_1: float
    tpr_01: float
    n: int


@dataclass(frozen=True, slots=True)
class Ratings:
    """What an attack without a natural threshold achieves; the attributes are those of `Attack`."""

    auc: float
    low: float
    high: float
    tpr_1: float
    n: int


def log_ratios(phi: np.ndarray, inside: np.ndarray, fit: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return log N(phi; in) - log N(phi; out) of every sample in the judged models, ``[len(judged), T]``.

    Args:
        phi: ``[J, T]`` log odds of the label.
        inside: bool ``[J, T]``.
        fit: models that means and variances are taken from.
        judged: models that are attacked; they must be others, or chance alone gives an AUC of 0.6 and more.

    Raises:
        LifelongError: a model is in both.
        ValueError: some sample has fewer than two models of a kind to fit.
    """
    if len(np.intersect1d(fit, judged)):
        raise LifelongError("An attack must not be fitted on models that it judges; split them into two halves.")
    fit_phi, kinds = phi[fit], inside[fit]
    result = np.zeros((len(judged), phi.shape[1]))
    for sign, kind in ((1, kinds), (-1, ~kinds)):
        count = kind.sum(0)
        if count.min() < 2:
            raise ValueError("every sample needs two models of a kind to fit")
        mean = np.where(kind, fit_phi, 0.0).sum(0) / count
        squares = (np.where(kind, fit_phi - mean, 0.0) ** 2).sum(0)
        if count.min() < OWN_VARIANCE:
            variance = np.full(len(mean), squares.sum() / (count - 1).sum())
        else:
            variance = squares / (count - 1)
        variance = np.maximum(variance, 1e-12)
        result += sign * (-((phi[judged] - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance))
    return result


def attack(phi: np.ndarray, inside: np.ndarray) -> Attack | None:
    """Attack every model with what the other half of the models tells; see `log_ratios`.

    Args:
        phi: ``[J, T]``. Models 4 i and 4 i + 1 make up one half, the others the other one.
        inside: bool ``[J, T]``.

    Returns:
        None if there are too few models or samples.
    """
    halves = _halves(len(phi))
    finite = np.isfinite(phi).all(0)
    phi, inside = phi[:, finite], inside[:, finite]
    if not phi.shape[1] or len(halves[1]) < 4:
        return None
    ratios = np.zeros(phi.shape)
    for fit, judged in (halves, halves[::-1]):
        ratios[judged] = log_ratios(phi, inside, fit, judged)
    hits, misses = ratios[inside], ratios[~inside]
    low, high = _interval(ratios, inside)
    accuracy = (np.mean(hits > 0) + np.mean(misses <= 0)) / 2
    return Attack(
        _auc(hits, misses), low, high, float(accuracy), _tpr(hits, misses, 0.01),
        _tpr(hits, misses, 0.001), ratios.size,
    )  # fmt: skip


def rmia(phi: np.ndarray, population: np.ndarray, inside: np.ndarray) -> Ratings | None:
    """Attack every model by RMIA (Zarifzadeh et al. 2024, arXiv 2312.03262), with the other half as references.

    The score of x in a model is the share of unseen samples z for which p(x) / mean p(x) is at least `GAMMA` times
    p(z) / mean p(z); means are over the reference models, half of which had x. It needs few of them, and no variances.

    Args:
        phi: ``[J, T]`` log odds of the targets; halves as in `attack`.
        population: ``[J, Z]`` log odds of samples that no model learned.
        inside: bool ``[J, T]``.

    Returns:
        None if there are too few models, targets or unseen samples.
    """
    halves = _halves(len(phi))
    if not phi.shape[1] or not population.shape[1] or len(halves[1]) < 4:
        return None
    x, z = (1 / (1 + np.exp(-np.clip(side, -500, 500))) for side in (phi, population))
    scores = np.zeros(phi.shape)
    for fit, judged in (halves, halves[::-1]):
        against = np.sort(GAMMA * z[judged] / np.maximum(z[fit].mean(0), _TINY), axis=1)
        ratios = x[judged] / np.maximum(x[fit].mean(0), _TINY)
        counts = [np.searchsorted(row, ratio, side="right") for row, ratio in zip(against, ratios, strict=True)]
        scores[judged] = np.stack(counts) / population.shape[1]
    hits, misses = scores[inside], scores[~inside]
    return Ratings(_auc(hits, misses), *_interval(scores, inside), _tpr(hits, misses, 0.01), scores.size)


def _halves(models: int) -> tuple[np.ndarray, np.ndarray]:
    number = np.arange(models)
    return number[number // 2 % 2 == 0], number[number // 2 % 2 == 1]


def _interval(scores: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the AUC: Student's, over the AUCs of pairs of twin models.

    The twins have complementary samples, and all samples of a model depend on each other, so that a pair is what is
    drawn. Both halves of the models are judged by what the other one tells; in a model that forgets they err together
    (by the inner product of what chance taught either), so that they count as one.
    """
    from scipy.stats import t

    pairs = [slice(start, start + 2) for start in range(0, len(scores) - 1, 2)]
    aucs = np.array([_auc(scores[p][inside[p]], scores[p][~inside[p]]) for p in pairs])
    halves = aucs[::2], aucs[1::2]
    freedom, smaller = len(aucs) - 2, min(map(len, halves))
    squares = sum(float(((half - half.mean()) ** 2).sum()) for half in halves)
    width = float(t.ppf(0.975, freedom)) * (squares / freedom / smaller) ** 0.5
    auc = _auc(scores[inside], scores[~inside])
    return max(auc - width, 0.0), min(auc + width, 1.0)


def _auc(hits: np.ndarray, misses: np.ndarray) -> float:
    """Return P(hit > miss) + P(equal) / 2."""
    ordered = np.sort(misses)
    below = np.searchsorted(ordered, hits, side="left") + np.searchsorted(ordered, hits, side="right")
    return float(below.mean() / (2 * len(misses)))


def _tpr(hits: np.ndarray, misses: np.ndarray, rate: float) -> float:
    """Return the share of hits above the threshold that at most a share `rate` of the misses exceeds."""
    ordered = np.sort(misses)[::-1]
    threshold = ordered[min(int(rate * len(ordered)), len(ordered) - 1)]
    return float(np.mean(hits > threshold))
