"""Forgetting score of the NeurIPS 2023 unlearning challenge: an epsilon for every example, and what it is worth.

For every forgotten example an attacker sees its log odds in models that unlearned it and in models retrained without
it, and picks the rule that tells them apart best; its false positive and false negative rates give an epsilon as in
differential privacy (Triantafillou et al. 2024, arXiv 2406.09073). Since the best of many rules is taken on few
models, a *perfect* method has an epsilon of about 1.6 and a score of about 0.2, not 0 and 1: compare with the score of
retrained models against other retrained ones.
"""

from __future__ import annotations

import math

import numpy as np

DELTA = 1e-5
CERTAIN = 50.0
"""Epsilon where the models can be told apart without error, or where unlearned models all say the same."""
_WIDTH = 0.5
_BUFFER = 2.0


def epsilon(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """Return the epsilon of one example.

    Rules: log odds above a threshold, for whichever side has the larger median; and log odds inside of a window for
    whichever side has the smaller range, where the window has that range and lies on it, give or take 2 at each end.
    Thresholds lie between any two neighbouring values (the released code has a grid of 0.01).

    Args:
        unlearned: ``[N]`` log odds in models that unlearned the example.
        retrained: ``[M]`` in models that never saw it.

    >>> epsilon(np.arange(8.0), np.arange(8.0) + 100)
    50.0
    """
    ranges = sorted((float(np.ptp(unlearned)), float(np.ptp(retrained))))
    if ranges[0] < 0.01 * ranges[1] or ranges[1] == 0:
        return CERTAIN
    values = np.unique(np.concatenate([unlearned, retrained]))
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    positive, negative = np.sort(unlearned), np.sort(retrained)
    if np.median(negative) > np.median(positive):
        positive, negative = negative, positive
    fnr = [np.searchsorted(positive, cuts) / len(positive)]
    fpr = [1 - np.searchsorted(negative, cuts) / len(negative)]
    narrow, wide = (positive, negative) if np.ptp(positive) < np.ptp(negative) else (negative, positive)
    low, high = np.triu_indices(len(cuts), 1)
    near = (np.abs(cuts[high] - narrow[-1]) <= _BUFFER) & (np.abs(cuts[high] - cuts[low] - ranges[0]) <= _BUFFER)
    for side, rates in ((narrow, fnr), (wide, fpr)):
        inside = np.searchsorted(side, cuts[high[near]]) - np.searchsorted(side, cuts[low[near]])
        rates.append(1 - inside / len(side) if side is narrow else inside / len(side))
    return float(_epsilons(np.concatenate(fpr), np.concatenate(fnr)).max())


def _epsilons(fpr: np.ndarray, fnr: np.ndarray) -> np.ndarray:
    """Return the epsilon of every rule; 0 for those that are dropped because exactly one of the rates is 0."""
    usable = (fpr > 0) & (fnr > 0)
    result = np.where((fpr == 0) & (fnr == 0), CERTAIN, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon_fpr = np.log(1 - DELTA - fpr) - np.log(fnr)
        epsilon_fnr = np.log(1 - DELTA - fnr) - np.log(fpr)
    epsilons = np.nan_to_num(np.fmax(epsilon_fpr, epsilon_fnr), nan=0.0, neginf=0.0)
    return np.where(usable, np.maximum(epsilons, 0.0), result)


def worth(eps: float, models: int) -> float:
    """Return what an epsilon is worth: 1 below 0.5, 1/2 below 1, 1/4 below 1.5 ..., 0 from ceil(ln(models - 1)) on.

    >>> worth(0.2, 64), worth(0.7, 64), worth(50.0, 64)
    (1.0, 0.5, 0.0)
    """
    return 0.0 if eps >= math.ceil(math.log(models - 1)) else 0.5 ** int(eps / _WIDTH)


def forgetting_score(unlearned: list[np.ndarray], retrained: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Return F, the mean worth over examples, and the epsilons.

    Args:
        unlearned, retrained: for every example its log odds in the models; see `epsilon`.
    """
    eps = np.array([epsilon(a, b) for a, b in zip(unlearned, retrained, strict=True)])
    models = [min(len(a), len(b)) for a, b in zip(unlearned, retrained, strict=True)]
    return float(np.mean([worth(e, m) for e, m in zip(eps, models, strict=True)])), eps


def epsilon_bound(unlearned: np.ndarray, retrained: np.ndarray, confidence: float = 0.95) -> float:
    """Return a lower bound of the epsilon that holds with that confidence, at least 0.

    The threshold is chosen on the first half of the models; on the second half both rates are bounded from above
    (Clopper and Pearson), which no luck in choosing can spoil.
    """
    from scipy.stats import beta

    a, b = (np.array_split(side, 2) for side in (unlearned, retrained))
    cuts = np.unique(np.concatenate([a[0], b[0]]))
    above = [np.mean(side[0][:, None] > cuts, axis=0) for side in (a, b)]
    at = int(np.argmax(np.abs(above[0] - above[1])))
    positive, negative = (a[1], b[1]) if above[0][at] >= above[1][at] else (b[1], a[1])
    wrong = ((positive <= cuts[at]).sum(), len(positive)), ((negative > cuts[at]).sum(), len(negative))
    level = 1 - (1 - confidence) / 2
    fnr, fpr = (1.0 if k == n else float(beta.ppf(level, k + 1, n - k)) for k, n in wrong)
    return float(_epsilons(np.array([fpr]), np.array([fnr]))[0])
