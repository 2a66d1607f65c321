"""Over seeds: Student's intervals and tests, Holm's correction, equivalence tests and nested variances."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SEEDS = 3
"""Fewer decide nothing: an interval of two spans thirteen times what they differ by, and one has none."""
_ENOUGH_FOR_BCA = 20
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        mean: over seeds.
        low, high: interval of the mean, by default Student's of 95 %; equal to the mean where all seeds agree, None for
            one seed.
        p: two-sided p-value of "the mean is the bar", by the test that the interval belongs to; None below 3 seeds.
        n: seeds.
        bca: beside it, from 20 seeds on, the 95 % bootstrap interval (bias-corrected and accelerated).
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    bca: tuple[float, float] | None = None


def estimate(values: Sequence[float], bar: float = 0.0, confidence: float = 0.95) -> Estimate:
    """Estimate a mean (of paired differences, say) over seeds, by Student's t.

    Right for few seeds if what they differ by is about normal; of very skewed numbers it covers less (88 % of an
    exponential one with 5 seeds, where the bootstrap covers 77 %). That all seeds agree leaves nothing to judge by: the
    interval is a point, and p is 0 unless that point is the bar.

    Args:
        values: one for each seed.
        bar: what the mean is tested against.
        confidence: of the interval.

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
    tested = len(x) >= FEWEST_SEEDS
    if np.ptp(x) == 0:
        value = float(x[0])
        return Estimate(value, value, value, float(value == bar) if tested else None, len(x))
    low, high = t_interval(x.tolist(), confidence)
    p = t_test(x.tolist(), bar) if tested else None
    return Estimate(mean, low, high, p, len(x), bca_interval(x.tolist()) if len(x) >= _ENOUGH_FOR_BCA else None)


def t_test(values: Sequence[float], bar: float = 0.0) -> float:
    """Return the two-sided p-value of "the mean is `bar`" (Student's t); the values must differ.

    >>> round(t_test([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64) - bar
    return float(2 * t.sf(abs(x.mean()) / (x.std(ddof=1) / np.sqrt(len(x))), len(x) - 1))


def bca_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return scipy's 95 % bootstrap interval (bias-corrected and accelerated) with a fixed seed, or None.

    None where it divides by zero, as for a number that all seeds but one agree on.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (np.asarray(values),), np.mean, n_resamples=_RESAMPLES, method="BCa", rng=np.random.default_rng(0)
        )
    low, high = (float(bound) for bound in result.confidence_interval)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for having made several comparisons (Holm 1979); None stays None.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    sorted_p = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(sorted_p):
        highest = max(highest, min(1.0, p * (len(sorted_p) - rank)))
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


def equivalence(values: Sequence[float], margin: float, level: float = 0.05) -> Estimate:
    """Test that a mean is zero give or take `margin`, by two one-sided t tests (Schuirmann 1987).

    That a difference is not significant is no evidence of equality; this is. Where the mean lies beyond the margin, it
    is tested against the margin instead, two-sided. Exactly one of "below", "within" and "above" is true, and each is
    rejected falsely with probability `level` at most, so both conclusions together have that level as well (Goeman,
    Solari and Stijnen 2010, three-sided testing).

    Args:
        values: differences, one for each seed.
        margin: above zero; set beforehand, or that of two perfect answers (`floor_margin`).
        level: of each one-sided test.

    Returns:
        The mean with its 1 - 2 `level` t interval, which lies within the margin exactly where both tests reject; as p
        the larger of both p-values where the mean is within the margin, else that of "the mean is the margin". No
        interval for one seed, no p below 3; 0 where all seeds agree, on whichever side of the margin.

    >>> round(equivalence([0.01, -0.01, 0.0, 0.02], 0.05).p, 4)
    0.003
    """
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, None, None, None, len(x))
    low, high = t_interval(x.tolist(), 1 - 2 * level)
    if np.ptp(x) == 0:
        p = 0.0
    else:
        p = t_test(x.tolist(), margin if mean > 0 else -margin)
        p = p / 2 if abs(mean) <= margin else p
    return Estimate(mean, low, high, p if len(x) >= FEWEST_SEEDS else None, len(x))


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
