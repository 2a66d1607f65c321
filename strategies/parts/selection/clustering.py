"""Clustering to pseudo-skills: k-means on normalised features, the same on every machine that rounds alike."""

from __future__ import annotations

import functools
import warnings
from typing import Literal

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from streams.randomness import Key

Algorithm = Literal["k-means", "mini-batch"]
"""Lloyd's, or mini-batches of 10,240 as in the released code."""


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # looks at every library that is loaded, which takes a while


def default_clusters(samples: int) -> int:
    """Return min(10, samples / 50), but 2 at least.

    >>> default_clusters(10_000), default_clusters(320), default_clusters(7)
    (10, 6, 2)
    """
    return max(min(10, samples // 50), 2)


def clusters(features: np.ndarray, count: int, key: Key, algorithm: Algorithm = "k-means") -> np.ndarray:
    """Return which cluster each row belongs to, int64 ``[N]`` in 0..K-1, no cluster being empty.

    There are fewer than `count` where rows do not differ enough.

    Args:
        features: float32 ``[N, d]``; normalise them first.
        count: K.
        key: names the initial centroids.
        algorithm: which k-means.
    """
    count = min(count, len(features))
    if count < 2:
        return np.zeros(len(features), dtype=np.int64)
    seed = key.number() % 2**32
    if algorithm == "k-means":
        model = KMeans(count, n_init=10, random_state=seed)
    else:
        model = MiniBatchKMeans(count, n_init=3, batch_size=10240, random_state=seed)
    # Threads would add up sums in an order of their own, and the last bits with them.
    with _threads().limit(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: documented above
        labels = model.fit_predict(features)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
