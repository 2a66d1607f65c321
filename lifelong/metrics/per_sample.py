"""Attacks on single samples with many models: LiRA and U-LiRA.

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
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Attack:
    """What an attack achieves, pooled over samples and models.

    Attributes:
        auc: area under the curve of the log likelihood ratio; 0.5 is chance.
        low, high: its 95 % interval, by resampling models (all samples of a model depend on each other).
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
    known, kinds = phi[fit], inside[fit]
    result = np.zeros((len(judged), phi.shape[1]))
    for sign, kind in ((1, kinds), (-1, ~kinds)):
        count = kind.sum(0)
        if count.min() < 2:
            raise ValueError("every sample needs two models of a kind to fit")
        mean = np.where(kind, known, 0.0).sum(0) / count
        squares = (np.where(kind, known - mean, 0.0) ** 2).sum(0)
        if count.min() < OWN_VARIANCE:
            variance = np.full(len(mean), squares.sum() / (count - 1).sum())
        else:
            variance = squares / (count - 1)
        variance = np.maximum(variance, 1e-12)
        result += sign * (-((phi[judged] - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance))
    return result


def attack(phi: np.ndarray, inside: np.ndarray, key_seed: int = 0) -> Attack | None:
    """Attack every model with what the other half of the models tells; see `log_ratios`.

    Args:
        phi: ``[J, T]``. Models 4 i and 4 i + 1 make up one half, the others the other one.
        inside: bool ``[J, T]``.
        key_seed: of the resampling.

    Returns:
        None if there are too few models or samples.
    """
    number = np.arange(len(phi))
    halves = (number[number // 2 % 2 == 0], number[number // 2 % 2 == 1])
    finite = np.isfinite(phi).all(0)
    phi, inside = phi[:, finite], inside[:, finite]
    if not phi.shape[1] or len(halves[1]) < 4:
        return None
    ratios = np.zeros(phi.shape)
    for fit, judged in (halves, halves[::-1]):
        ratios[judged] = log_ratios(phi, inside, fit, judged)
    generator = np.random.default_rng(key_seed)
    aucs = []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(0, len(phi), len(phi))
        aucs.append(_auc(ratios[drawn][inside[drawn]], ratios[drawn][~inside[drawn]]))
    hits, misses = ratios[inside], ratios[~inside]
    low, high = np.percentile(aucs, [2.5, 97.5])
    accuracy = (np.mean(hits > 0) + np.mean(misses <= 0)) / 2
    return Attack(
        _auc(hits, misses), float(low), float(high), float(accuracy), _tpr(hits, misses, 0.01),
        _tpr(hits, misses, 0.001), ratios.size,
    )  # fmt: skip


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
