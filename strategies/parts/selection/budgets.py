"""Budgets: how many samples each cluster gives to a draw."""

from __future__ import annotations

from typing import Literal

import numpy as np

Shares = Literal["equal", "el2n-spread", "density"]
"""Equal shares; in proportion to the deviation of EL2N in a cluster; or to how far its members and the other centroids
lie from its centroid."""


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


def spreads(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the standard deviation of a score in each cluster, ``[K]``."""
    return np.array([values[labels == k].std() for k in range(labels.max() + 1)])


def densities(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return, per cluster, the mean distance of its members from their centroid times that to the other centroids.

    The weights ``[K]`` of density-based pruning (Abbas et al. 2024, arXiv 2401.04578), in distances of cosine.

    Args:
        features: rows of length 1, ``[N, F]``.
        labels: cluster of each row ``[N]``, 0 to K - 1; none is empty.
    """
    count = labels.max() + 1
    centroids = np.stack([features[labels == k].mean(0) for k in range(count)])
    centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    inner = np.array([(1 - features[labels == k] @ centroids[k]).mean() for k in range(count)])
    outer = (1 - centroids @ centroids.T).sum(1) / max(count - 1, 1)
    return np.maximum(inner, 0) * np.maximum(outer, 0)
