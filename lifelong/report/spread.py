"""Means over seeds, and the band around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RESAMPLES = 1000
_FEW = 8
_INTERVAL = [2.5, 97.5]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Numbers over seeds; all arrays have the same shape, and are NaN where no seed has a value.

    Attributes:
        mean: over the seeds that have a value.
        low, high: the band, as `band_in_words` says.
        count: seeds that have a value.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


def spread(values: np.ndarray) -> Spread:
    """Return mean and band of ``[seeds, ...]``; NaN is left out.

    With fewer than 8 seeds the band goes from the lowest to the highest: so few say little about an interval. From 8
    on it is the 95 % percentile bootstrap interval of the mean.

    >>> band = spread(np.array([[0.1, np.nan], [0.3, np.nan]]))
    >>> [float(x[0].round(6)) for x in (band.mean, band.low, band.high)], band.count.tolist()
    ([0.2, 0.1, 0.3], [2, 0])
    """
    values = np.asarray(values, dtype=np.float64)
    has_value = np.isfinite(values)
    count = has_value.sum(axis=0)
    filled = np.where(has_value, values, 0.0)
    mean = _divided(filled.sum(axis=0), count)
    if len(values) < _FEW:
        low = np.where(has_value, values, np.inf).min(axis=0, initial=np.inf)
        high = np.where(has_value, values, -np.inf).max(axis=0, initial=-np.inf)
    else:
        low, high = _bootstrap(filled, has_value)
    return Spread(mean, np.where(count > 0, low, np.nan), np.where(count > 0, high, np.nan), count)


def band_in_words(num_seeds: int) -> str:
    """Say what the band is.

    >>> band_in_words(3)
    'mean of 3 seeds, with the lowest and the highest'
    """
    if num_seeds < 2:
        return "one seed, so there is no band"
    if num_seeds < _FEW:
        return f"mean of {num_seeds} seeds, with the lowest and the highest"
    return f"mean of {num_seeds} seeds, with its 95 % bootstrap interval"


def _bootstrap(filled: np.ndarray, has_value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample seeds, the same for all columns; a resample without a value in a column says nothing there."""
    num_seeds, shape = len(filled), filled.shape[1:]
    drawn = np.random.default_rng(0).multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=_RESAMPLES)
    weight, has_value = drawn.astype(np.float64), has_value.reshape(num_seeds, -1)
    means = weight @ filled.reshape(num_seeds, -1) / num_seeds
    low, high = np.full(means.shape[1], np.nan), np.full(means.shape[1], np.nan)
    complete = has_value.all(axis=0)
    if complete.any():
        low[complete], high[complete] = np.percentile(means.T[complete], _INTERVAL, axis=1)
    gaps = ~complete & has_value.any(axis=0)
    if gaps.any():
        present = weight @ has_value[:, gaps].astype(np.float64)
        low[gaps], high[gaps] = np.nanpercentile(_divided(means[:, gaps] * num_seeds, present), _INTERVAL, axis=0)
    return low.reshape(shape), high.reshape(shape)


def _divided(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
