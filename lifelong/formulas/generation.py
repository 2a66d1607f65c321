"""How good generated images are, and how far two sets of them lie apart: pure functions of features and labels."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float | None:
    """Return the Frechet distance between Gaussians fitted to features, FID (Heusel et al. 2017, arXiv 1706.08500).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Of few samples it is biased upwards, by about features over samples.

    Args:
        generated, real: ``[n, F]`` and ``[m, F]``; None with fewer than two of either.
    """
    if min(len(generated), len(real)) < 2:
        return None
    one, other = generated.astype(np.float64), real.astype(np.float64)
    means = one.mean(0) - other.mean(0)
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, other))
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(np.complex128)).real.sum()
    return float(means @ means + np.trace(c1) + np.trace(c2) - 2 * root)


def kernel_distance(generated: np.ndarray, real: np.ndarray) -> float | None:
    """Return the squared maximum mean discrepancy under (x y / F + 1)^3, KID (Binkowski et al. 2018, arXiv 1801.01401).

    Unbiased, so that it may be below zero; of all samples at once.

    Args:
        generated, real: ``[n, F]`` and ``[m, F]``; None with fewer than two of either.
    """
    n, m = len(generated), len(real)
    if min(n, m) < 2:
        return None
    x, y = generated.astype(np.float64), real.astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        values: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
        return values

    within_x, within_y = kernel(x, x), kernel(y, y)
    same_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    same_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(same_x + same_y - 2 * kernel(x, y).mean())


def nearest(points: np.ndarray, others: np.ndarray, leave_self_out: bool = False) -> np.ndarray:
    """Return the distance of every point ``[n, F]`` to the nearest of others ``[m, F]``, ``[n]``.

    Args:
        points, others: of the same features.
        leave_self_out: both are the same points, and none is its own neighbour.
    """
    distances = cdist(points, others)
    if leave_self_out:
        np.fill_diagonal(distances, np.inf)
    lowest: np.ndarray = distances.min(1)
    return lowest


def extracted(generated: np.ndarray, images: np.ndarray, others: np.ndarray, neighbours: int = 50) -> float:
    """Return the share of images that a generator reproduces: some sample of it is far nearer to them than to others.

    A sample counts whose distance to the image is below a third of its mean distance to the nearest others (after
    Carlini et al. 2023, arXiv 2301.13188, section 4.2).

    Args:
        generated: ``[g, P]``, what it makes.
        images: ``[n, P]``, what may be reproduced.
        others: ``[m, P]``, other images, at least one.
        neighbours: of a sample among the others.
    """
    k = min(neighbours, len(others))
    usual = np.sort(cdist(generated, others), axis=1)[:, :k].mean(1)
    return float((cdist(generated, images) < usual[:, None] / 3).any(0).mean())


def label_divergence(one: np.ndarray, other: np.ndarray, count: int) -> float:
    """Return the Jensen-Shannon divergence in nats between the shares of labels, 0 (alike) to ln 2 (never the same).

    Args:
        one, other: int labels, any shape.
        count: of possible labels.
    """
    p, q = (np.bincount(x.ravel(), minlength=count) / x.size for x in (one, other))
    middle = (p + q) / 2

    def divergence(a: np.ndarray) -> float:
        there = a > 0
        return float((a[there] * np.log(a[there] / middle[there])).sum())

    return (divergence(p) + divergence(q)) / 2


def mean_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean distance between features of images made from the same noise, ``[..., F]`` each."""
    return float(np.linalg.norm(one.astype(np.float64) - other, axis=-1).mean())
