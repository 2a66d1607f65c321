"""What a request is worth beside retraining: UA, RA, TA, MIA and cost, their average gap, and ToW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Quality:
    """One model after one request, in shares.

    Attributes:
        forget: accuracy on the forget set; UA is 1 minus it.
        retain: accuracy on retained training data (RA).
        test: accuracy on test data that still counts (TA).
        mia: share of the forget set that an attack takes for unseen (MIA-efficacy).
    """

    forget: float
    retain: float
    test: float
    mia: float


def average_gap(run: Quality, reference: Quality) -> float:
    """Return the mean absolute difference in UA, RA, TA and MIA (Jia et al. 2023, Fan et al. 2024), in shares.

    >>> round(average_gap(Quality(0.99, 0.98, 0.9, 0.3), Quality(1.0, 0.97, 0.88, 0.3)), 4)
    0.01
    """
    gaps = [abs(getattr(run, name) - getattr(reference, name)) for name in ("forget", "retain", "test", "mia")]
    return float(np.mean(gaps))


def tow_factors(run: Quality, reference: Quality) -> tuple[float, float, float]:
    """Return 1 - |difference of accuracies| on forget set, retained data and test data (Zhao et al. 2024).

    Their product is the tug of war (ToW), 1 if all three agree; a product hides which of them failed.

    >>> factors = tow_factors(Quality(0.9, 0.98, 0.90, 0), Quality(0.95, 0.99, 0.88, 0))
    >>> round(float(np.prod(factors)), 5)
    0.92169
    """
    forget, retain, test = (1 - abs(getattr(run, n) - getattr(reference, n)) for n in ("forget", "retain", "test"))
    return forget, retain, test


def agreement(p: np.ndarray, q: np.ndarray) -> float:
    """Return the share of samples whose most likely class is the same (completeness, Cao and Yang 2015).

    >>> agreement(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.6, 0.4], [0.7, 0.3]]))
    0.5
    """
    return float(np.mean(p.argmax(1) == q.argmax(1)))


def request_slope(values: np.ndarray, numbers: Sequence[int] | None = None) -> float | None:
    """Return the least-squares slope of `values` on the number of the request, or None for fewer than three.

    Args:
        values: ``[n]``.
        numbers: of the requests that they belong to; None for 0, 1 ... n - 1.

    >>> gaps = np.array([0.1, 0.2, 0.3])
    >>> round(request_slope(gaps), 6), round(request_slope(gaps, [0, 5, 10]), 6)
    (0.1, 0.02)
    """
    if len(values) < 3:
        return None
    return float(np.polyfit(np.arange(len(values)) if numbers is None else numbers, values, 1)[0])


def tow_mia(run: Quality, reference: Quality) -> float:
    """Return the tug of war with the attack's share in the place of accuracy on the forget set, 0 to 1.

    An attack that takes more samples for unseen than after retraining is as far from it as one that takes fewer.

    >>> round(tow_mia(Quality(0.9, 0.98, 0.90, 0.7), Quality(0.95, 0.99, 0.88, 0.5)), 4)
    0.7762
    >>> round(tow_mia(Quality(0.9, 0.98, 0.90, 0.3), Quality(0.95, 0.99, 0.88, 0.5)), 4)
    0.7762
    """
    _, retain, test = tow_factors(run, reference)
    return (1 - abs(run.mia - reference.mia)) * retain * test
