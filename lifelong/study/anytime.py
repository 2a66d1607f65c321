"""A t test that stays valid however often one looks and whenever one stops (Wang and Ramdas 2023, arXiv 2310.03722).

Of x_1 ... x_n the likelihood ratio of an effect size of any mean over its standard deviation against none, in which the
scale cancels, is averaged over N(0, 1/c^2) effect sizes (their theorem 4.9). With S the sum of x and V that of x^2,

    G_n = sqrt(c^2 / (n + c^2)) * ((n + c^2) V / ((n + c^2) V - S^2))^(n/2)

is a martingale that begins at 1 where x is normal with mean zero, whatever its variance. By Ville's inequality it
ever reaches 1/a with probability a at most, so that 1/G_n is a p-value at every n, and all means whose p-value is above
a are an interval that covers the true mean at all n together with probability 1 - a.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

C_SQUARED = 0.1
"""Effects of about three standard deviations of one seed are looked for. Between 0.05 and 0.5 an effect of one is
decided after 13 to 15 seeds in the mean and one of two after 6; three seeds can decide only where it is small."""


def anytime_p(values: Sequence[float], bar: float = 0.0, c_squared: float = C_SQUARED) -> float:
    """Return the p-value of "the mean is `bar`", valid after any number of looks; 1 for one seed.

    >>> round(anytime_p([1.0, 1.0, 1.0]), 4) == round(least_p(3), 4)
    True
    """
    x = np.asarray(values, dtype=np.float64) - bar
    n, squares = len(x), float((x**2).sum())
    if not squares:
        return 1.0
    share = float(x.sum()) ** 2 / ((n + c_squared) * squares)
    log_martingale = 0.5 * np.log(c_squared / (n + c_squared)) - 0.5 * n * np.log1p(-share)
    return float(min(1.0, np.exp(-log_martingale)))


def anytime_interval(
    values: Sequence[float], confidence: float = 0.95, c_squared: float = C_SQUARED
) -> tuple[float, float]:
    """Return the interval of all means that `anytime_p` does not reject; infinite where so few seeds reject nothing.

    Args:
        values: one for each seed.
        confidence: that it covers the mean at every number of seeds.
        c_squared: see the module.
    """
    x = np.asarray(values, dtype=np.float64)
    half = float(x.std()) * radius(len(x), 1 - confidence, c_squared)
    return float(x.mean()) - half, float(x.mean()) + half


def radius(n: int, level: float, c_squared: float = C_SQUARED) -> float:
    """Return half the interval's width for a standard deviation (with n below it, not n - 1) of 1."""
    shrunk = c_squared / (n + c_squared)
    threshold = (level**2 * shrunk) ** (-1 / n)  # G_n < 1 / level where V / (V - S^2 / (n + c^2)) is below it
    return float("inf") if threshold * shrunk >= 1 else ((threshold - 1) / (1 - threshold * shrunk)) ** 0.5


def least_p(n: int, c_squared: float = C_SQUARED) -> float:
    """Return the p-value of n seeds that agree on something else than the bar: none is smaller.

    >>> round(least_p(3), 3), least_p(5) < 0.001
    (0.032, True)
    """
    return float((c_squared / (n + c_squared)) ** ((n - 1) / 2))
