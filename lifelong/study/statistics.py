"""Over seeds: bootstrap intervals, paired permutation, Holm's correction, equivalence tests and nested variances."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        mean: over seeds.
        low, high: 95 % bootstrap interval of the mean; equal to the mean where all seeds agree, None for one seed.
        p: two-sided p-value of "the mean is zero" by sign-flip permutation, None where seeds do not allow a test.
        n: seeds.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean (of paired differences, say) over seeds.

    The interval is scipy's bootstrap with a fixed seed (bias-corrected and accelerated from 8 seeds on). The test flips
    signs, which is exact for paired differences that are symmetric about zero; with n seeds its smallest p is 2 / 2^n,
    so it says nothing below 5 seeds and is left out there.

    >>> estimate([0.1, 0.1, 0.1]).low
    0.1

    Raises:
        ValueError: there is no value.
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        raise ValueError("there is no value to estimate from")
    mean = float(x.mean())
    if len(x) == 1:
        return Estimate(mean, None, None, None, 1)
    if np.ptp(x) == 0:
        return Estimate(mean, mean, mean, _sign_flip(x), len(x))
    low, high = _interval(x)
    return Estimate(mean, low, high, _sign_flip(x), len(x))


def _interval(x: np.ndarray) -> tuple[float, float]:
    from scipy.stats import DegenerateDataWarning, bootstrap

    # With very few seeds, or very skewed ones, BCa divides by zero; percentiles are sound there.
    for method in ("BCa", "percentile") if len(x) >= 8 else ("percentile",):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateDataWarning)
            result = bootstrap((x,), np.mean, n_resamples=_RESAMPLES, method=method, rng=np.random.default_rng(0))
        low, high = (float(bound) for bound in result.confidence_interval)
        if np.isfinite(low) and np.isfinite(high):
            return low, high
    raise AssertionError("percentiles of finite numbers are finite")


def _sign_flip(x: np.ndarray) -> float | None:
    """Return the two-sided p-value of a zero mean under random signs, or None below 5 seeds."""
    if len(x) < 5:
        return None
    from scipy.stats import permutation_test

    result = permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for having made several comparisons (Holm 1979); None stays None.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[index] = highest
    return corrected


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of a mean: right for few seeds if what they differ by is about normal.

    Args:
        values: at least two.
        confidence: of the interval.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    half = float(t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return float(x.mean()) - half, float(x.mean()) + half


def equivalence(values: Sequence[float], margin: float) -> Estimate:
    """Test that a mean is zero give or take `margin`, by two one-sided t tests (Schuirmann 1987).

    That a difference is not significant is no evidence of equality; this is. The 90 % interval lies within the margin
    exactly where both tests reject at 5 %.

    Args:
        values: differences, one for each seed.
        margin: above zero; set beforehand, or that of two perfect answers (`floor_margin`).

    Returns:
        The mean with its 90 % t interval, and as p the larger of both p-values; neither for one seed.

    >>> round(equivalence([0.01, -0.01, 0.0, 0.02], 0.05).p, 4)
    0.0048
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, None, None, None, len(x))
    low, high = t_interval(x.tolist(), 0.9)
    error = float(x.std(ddof=1) / np.sqrt(len(x)))
    excess = abs(mean) - margin
    p = float(t.cdf(excess / error, len(x) - 1)) if error else float(excess > 0)
    return Estimate(mean, low, high, p, len(x))


def floor_margin(differences: Sequence[float]) -> float:
    """Return the 95 % quantile of the absolute differences between two perfect answers.

    Of few seeds it is close to the largest of them: with 5 seeds a third perfect answer is found equal about every
    second time only, with 10 seeds nearly always.
    """
    return float(np.quantile(np.abs(differences), 0.95))


def nested_variances(values: np.ndarray) -> tuple[float, ...]:
    """Return the variance that every level of a balanced nested design adds (method of moments, from mean squares).

    Args:
        values: ``[n_0, n_1, ...]``, every n at least 2: axis 0 are training seeds, say, axis 1 what is drawn anew under
            each of them, and so on.

    Returns:
        One variance per axis, unbiased; what should be 0 can come out negative.

    >>> nested_variances(np.array([[1.0, 1.0], [3.0, 3.0]]))
    (2.0, 0.0)
    """
    squares = []
    above = np.full((1,) * values.ndim, values.mean())
    for level in range(values.ndim):
        means = values.mean(axis=tuple(range(level + 1, values.ndim)), keepdims=True)
        below = int(np.prod(values.shape[level + 1 :]))
        freedom = int(np.prod(values.shape[:level])) * (values.shape[level] - 1)
        squares.append((float(((means - above) ** 2).sum()) * below / freedom, below))
        above = means
    inner = [square for square, _ in squares[1:]] + [0.0]
    return tuple((square - within) / below for (square, below), within in zip(squares, inner, strict=True))
