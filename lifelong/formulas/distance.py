"""How far a model is from a reference on the same samples: predicted distributions and features."""

from __future__ import annotations

import numpy as np


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the mean Jensen-Shannon divergence in bits, in [0, 1].

    JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m the mean of both.

    Args:
        p, q: ``[n, K]`` distributions.

    >>> round(jensen_shannon(np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])), 3)
    0.531
    """
    p, q = p.astype(np.float64), q.astype(np.float64)
    middle = (p + q) / 2
    return float(np.mean(_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2)


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / q), 0.0)
    return terms.sum(1)


def euclidean(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean Euclidean distance between rows (samples weigh the same, whatever the batches were).

    >>> euclidean(np.array([[3.0, 4.0]]), np.array([[0.0, 0.0]]))
    5.0
    """
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1).mean())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return 1 - mean cosine similarity between rows, in [0, 2]; a zero row has similarity 0.

    >>> cosine(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
    1.0
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    similarity = np.where(scale > 0, (a * b).sum(1) / np.where(scale > 0, scale, 1), 0.0)
    return float(1 - similarity.mean())


def cka_distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return 1 - linear CKA of two feature matrices ``[n, F]`` (Kornblith et al. 2019), or None if one is constant.

    >>> round(cka_distance(np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [4.0], [8.0]])), 6)
    0.0
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    a, b = a - a.mean(0), b - b.mean(0)
    scale = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return None if scale == 0 else float(1 - np.linalg.norm(a.T @ b) ** 2 / scale)


def activation_distance(p: np.ndarray, q: np.ndarray) -> float:
    """Return the mean L1 distance between predicted distributions ``[n, K]``, in [0, 2] (Golatkar et al. 2020).

    >>> activation_distance(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    2.0
    """
    return float(np.abs(p.astype(np.float64) - q.astype(np.float64)).sum(1).mean())


def zero_retrain_forgetting(p: np.ndarray, random: np.ndarray) -> float:
    """Return ZRF: 1 - mean Jensen-Shannon divergence in bits to a network that knows nothing (Chundawat et al. 2023).

    1 means predictions like an untrained network's, which the retrained reference does not make either. With the true
    divergence (the paper's code divides by the number of classes) a sure model scores near 0.24 for ten classes.

    >>> round(zero_retrain_forgetting(np.eye(10)[:1], np.full((1, 10), 0.1)), 4)
    0.2417
    """
    return 1 - jensen_shannon(p, random)


def layer_distances(run: np.ndarray, reference: np.ndarray, layers: dict[str, slice]) -> dict[str, float]:
    """Return ||w_run - w_reference|| / ||w_reference|| of every layer (absolute where the reference is zero).

    It means something only between models that started from the same weights.

    Args:
        run, reference: ``[P]`` parameters.
        layers: which parameters each tensor has.
    """
    distances = {}
    for name, where in layers.items():
        size = float(np.linalg.norm(reference[where]))
        distances[name] = float(np.linalg.norm(run[where] - reference[where])) / (size or 1.0)
    return distances
