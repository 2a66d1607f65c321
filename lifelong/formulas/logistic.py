"""Logistic regressions on one variable, many at once."""

from __future__ import annotations

import numpy as np

_TOLERANCE, _STEPS, _HALVINGS = 1e-9, 100, 40


def logistic_fits(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercepts ``[F]`` of F regressions with an L2 penalty on the weight (C = 1).

    Newton's method from zero, for all of them at once: with two parameters a step is a closed formula. A step that
    would raise the loss is halved. It ends where no slope of a mean loss is above 1e-9, which is nearer to the optimum
    than scikit-learn's own tolerance of 1e-4.

    Args:
        x: ``[F, n]``.
        y: ``[F, n]`` zeros and ones, both in every row: else no intercept is best.

    >>> x, y = np.array([[-2.0, -1.0, 1.0, 2.0]]), np.array([[0, 1, 0, 1]])
    >>> (weight,), (intercept,) = logistic_fits(x, y)
    >>> round(float(weight), 4), round(abs(float(intercept)), 4)
    (0.2905, 0.0)
    """
    parameters = np.zeros((2, len(x)))
    loss = _losses(parameters, x, y)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(_logits(parameters, x), -500, 500)))
        residuals, curvature = p - y, p * (1 - p)
        slopes = np.stack([(residuals * x).sum(1) + parameters[0], residuals.sum(1)])
        if np.abs(slopes).max() <= _TOLERANCE * x.shape[1]:
            break
        # The intercept has no penalty: where no sample is in doubt its curvature underflows.
        ww, wb, bb = (curvature * x * x).sum(1) + 1, (curvature * x).sum(1), curvature.sum(1) + 1e-12
        determinant = ww * bb - wb * wb
        step = np.stack([bb * slopes[0] - wb * slopes[1], ww * slopes[1] - wb * slopes[0]]) / determinant
        for _ in range(_HALVINGS):
            following = _losses(parameters - step, x, y)
            worse = following > loss + 1e-12 * np.abs(loss)
            if not worse.any():
                break
            step[:, worse] /= 2
        parameters, loss = parameters - step, following
    return parameters[0], parameters[1]


def _logits(parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
    logits: np.ndarray = parameters[0][:, None] * x + parameters[1][:, None]
    return logits


def _losses(parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    logits = _logits(parameters, x)
    losses: np.ndarray = (np.logaddexp(0, logits) - y * logits).sum(1) + parameters[0] ** 2 / 2
    return losses
