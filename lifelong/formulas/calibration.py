"""Calibration: whether a model is as often right as it is sure to be."""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Return the mean distance between confidence and accuracy over 15 equally wide bins (Guo et al. 2017).

    ECE = sum_b n_b / n |accuracy_b - confidence_b|. Noise in a bin does not cancel, so that few samples make it larger:
    only numbers from the same samples can be compared.

    Args:
        confidences: ``[n]`` highest probability of each prediction, in (0, 1]; n at least 1.
        right: ``[n]`` 1 where the prediction is right, else 0.

    Returns:
        A float in [0, 1]; 0 is perfect.

    >>> round(expected_calibration_error(np.full(10, 0.8), np.array([1.0] * 6 + [0.0] * 4)), 6)
    0.2
    """
    bins = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    excess = np.bincount(bins, weights=right.astype(np.float64) - confidences, minlength=BINS)
    return float(np.abs(excess).sum() / len(confidences))
