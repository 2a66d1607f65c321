"""Gaussian differential privacy: from mu to (epsilon, delta) and back (Dong, Roth, Su 2022, arXiv 1905.02383).

A Gaussian of standard deviation sigma whose mean moves by r has mu = r / sigma. Costs of several such publications,
each chosen by looking at the earlier ones, add in squares.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr


def delta_of(epsilon: float, mu: float) -> float:
    """Return the smallest delta at which a cost of `mu` is (epsilon, delta).

    Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2), Corollary 2.13.
    """
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    first = ndtr(-epsilon / mu + mu / 2)
    return max(0.0, float(first - math.exp(min(0.0, epsilon + log_ndtr(-epsilon / mu - mu / 2)))))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest epsilon at which a cost of `mu` is (epsilon, delta); infinite if `mu` is.

    >>> round(epsilon_of(0.2681, 1e-5), 3), epsilon_of(0.0, 1e-5)
    (1.0, 0.0)
    """
    if math.isinf(mu):
        return math.inf
    if delta_of(0.0, mu) <= delta:
        return 0.0
    most = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # by concentrated privacy, which is looser
    return float(brentq(lambda epsilon: delta_of(epsilon, mu) - delta, 0.0, most, xtol=1e-13, rtol=1e-13))


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest cost that is (epsilon, delta).

    >>> round(mu_of(1.0, 1e-5), 4), round(mu_of(1.0, 1e-4), 4)
    (0.2681, 0.3139)
    """
    most = 1.0
    while delta_of(epsilon, most) < delta:
        most *= 2
    return float(brentq(lambda mu: delta_of(epsilon, mu) - delta, 1e-9, most, xtol=1e-15, rtol=1e-13))


def group(mu: float, rows: int) -> float:
    """Return what costs `mu` for each row for several rows together: `rows` times as much (Theorem 2.14)."""
    return mu * rows
