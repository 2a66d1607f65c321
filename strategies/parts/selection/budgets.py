"""Budgets: how many samples each cluster gives to a draw."""

from __future__ import annotations

from typing import Literal

import numpy as np

Shares = Literal["equal", "proportional", "el2n-spread", "density"]
"""Equal shares; in proportion to the size of a cluster; in proportion to the deviation of EL2N in a cluster, where a
full cluster hands its surplus on equally; or in proportion to how far its members and the other centroids lie from its
centroid."""


def equal_shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """Share `total` out equally; clusters that are smaller than their share give all they have, the others the rest.

    Args:
        sizes: int64 ``[K]``.
        total: samples wanted; at most the sum of sizes is given.

    Returns:
        int64 ``[K]``; clusters that could give more are equal within 1.

    >>> equal_shares(np.array([100, 3, 40]), 30).tolist()
    [14, 3, 13]
    """
    shares = np.zeros(len(sizes), dtype=np.int64)
    remaining = min(total, int(sizes.sum()))
    for done, k in enumerate(np.argsort(sizes, kind="stable")):
        shares[k] = min(int(sizes[k]), remaining // (len(sizes) - done))
        remaining -= int(shares[k])
    return shares


def weighted_shares(sizes: np.ndarray, weights: np.ndarray, total: int) -> np.ndarray:
    """Share `total` out in proportion to weights, as far as clusters have that much.

    Args:
        sizes: int64 ``[K]``.
        weights: float ``[K]``, not negative; all of them 0 means equal.
        total: see `equal_shares`.

    >>> weighted_shares(np.array([100, 3, 40]), np.array([1.0, 1.0, 2.0]), 30).tolist()
    [9, 3, 18]
    """
    total = min(total, int(sizes.sum()))
    if not np.isfinite(weights).all() or weights.sum() <= 0:
        return equal_shares(sizes, total)
    exact = np.zeros(len(sizes))
    open_ = np.ones(len(sizes), dtype=bool)
    while True:  # whoever would give more than it has gives all, and the others share what is left
        rest, weight = total - exact[~open_].sum(), weights[open_].sum()
        if not open_.any() or weight <= 0:
            break
        exact[open_] = rest * weights[open_] / weight
        over = open_ & (exact > sizes)
        if not over.any():
            break
        exact[over], open_[over] = sizes[over], False
    shares = np.floor(exact + 1e-9).astype(np.int64)
    # What rounding has left goes to the largest fractions, then to whoever still has something.
    for k in np.argsort(shares - exact, kind="stable"):
        shares[k] += int(shares.sum() < total and shares[k] < sizes[k])
    return shares + equal_shares(sizes - shares, total - int(shares.sum()))


def handed_on_shares(sizes: np.ndarray, weights: np.ndarray, total: int) -> np.ndarray:
    """Share `total` out in proportion to weights; what a small cluster cannot give, the larger ones do in equal parts.

    Adapt-infinity's release goes from the smallest cluster to the largest in that way, and leaves out what rounding
    leaves; here that goes to whoever still has something.

    Args:
        sizes, weights, total: see `weighted_shares`.

    >>> handed_on_shares(np.array([10, 30, 100]), np.array([5.0, 3.0, 2.0]), 60).tolist()
    [10, 28, 22]
    """
    total = min(total, int(sizes.sum()))
    if not np.isfinite(weights).all() or weights.sum() <= 0:
        return equal_shares(sizes, total)
    exact = total * weights / weights.sum()
    order = np.argsort(sizes, kind="stable")
    for done, k in enumerate(order):
        larger = order[done + 1 :]
        if int(exact[k] + 1e-9) > sizes[k] and len(larger):
            exact[larger] += (exact[k] - sizes[k]) / len(larger)
            exact[k] = sizes[k]
    shares = np.minimum(np.floor(exact + 1e-9).astype(np.int64), sizes)
    return shares + equal_shares(sizes - shares, total - int(shares.sum()))


def spreads(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the standard deviation of a score in each cluster, ``[K]``."""
    return np.array([values[labels == k].std() for k in range(labels.max() + 1)])


def densities(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return, per cluster, the mean distance of its members from their centroid times that to all centroids, ``[K]``.

    Euclidean distances; that to all centroids is sqrt(sum_j ||c_j - c_k||^2), as in Adapt-infinity's release. Abbas et
    al. 2024 (arXiv 2401.04578), whose weights for pruning these are modelled on, take the mean of distances.

    Args:
        features: rows of length 1, ``[N, F]``; centroids are the means of rows, and shorter.
        labels: cluster of each row ``[N]``, 0 to K - 1; none is empty.
    """
    count = labels.max() + 1
    centroids = np.stack([features[labels == k].mean(0) for k in range(count)])
    inner = np.array([np.linalg.norm(features[labels == k] - centroids[k], axis=1).mean() for k in range(count)])
    outer = np.array([np.linalg.norm(centroids - c) for c in centroids])
    return inner * outer
