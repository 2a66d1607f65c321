"""Concept activation vectors in a model's feature space, and which of them a class is recognised by."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Lasso
from sklearn.svm import LinearSVC

from streams.randomness import Key

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C that are tried for a concept's support vector machine."""


def concept_vectors(features: np.ndarray, labels: np.ndarray, samples: int, key: Key) -> dict[int, np.ndarray]:
    """Return every class's concept vector (TCAV, Kim et al. 2018): the unit normal of a linear SVM against others.

    Half of what is drawn chooses C by held-out accuracy; the normal is that of the machine trained on all of it. With a
    single sample of a kind nothing can be held out, and C is 1.

    Args:
        features: ``[n, F]``.
        labels: int ``[n]``, at least two classes.
        samples: at most that many of the class, and of the others.
        key: names the draw.
    """
    normals = {}
    for label in np.unique(labels):
        rows = []
        for of_class in (True, False):
            candidates = np.flatnonzero((labels == label) == of_class)
            rows.append(candidates[(key / int(label)).order(candidates)[:samples]])
        x, y = features[np.concatenate(rows)], np.repeat([1, 0], [len(r) for r in rows])
        held_out = np.concatenate([np.arange(len(r)) % 2 == 1 for r in rows])
        best = 1.0
        if min(len(r) for r in rows) > 1:
            scores = [_machine(x[~held_out], y[~held_out], c).score(x[held_out], y[held_out]) for c in STRENGTHS]
            best = STRENGTHS[int(np.argmax(scores))]
        normal = _machine(x, y, best).coef_[0]
        normals[int(label)] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return normals


def class_weights(scores: np.ndarray, is_class: np.ndarray, sparsity: float) -> np.ndarray:
    """Return one row of a sparse linear layer from concept scores to classes, ``[J]``: the lasso on 0 and 1.

    Args:
        scores: standardised concept scores ``[n, J]``.
        is_class: bool ``[n]``.
        sparsity: weight of the l1 penalty beside half the mean squared error.
    """
    return np.asarray(Lasso(alpha=sparsity, random_state=0).fit(scores, is_class.astype(np.float64)).coef_)


def _machine(x: np.ndarray, y: np.ndarray, c: float) -> LinearSVC:
    return LinearSVC(C=c, dual=False, class_weight="balanced", random_state=0).fit(x, y)
