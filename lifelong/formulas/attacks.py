"""What an attacker who holds the weights gets back: rounding, a few steps of fine-tuning, and probes of hidden states.

The attacks on answers in text. Each works on a copy of the model, the same way on run and references; what counts is
the difference to the retrained reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


def rounded(weight: torch.Tensor, bits: int, dim: int = 1) -> torch.Tensor:
    """Return weights after a round trip through signed integers, with one scale per output (absolute maximum).

    Args:
        weight: ``[out, in]``, or ``[in, out]`` with `dim` 0.
        bits: of the integers: 8 leaves 255 levels, 4 leaves 15.
        dim: the dimension that a scale is shared along, that of the inputs.

    >>> rounded(torch.tensor([[1.0, -0.49, 0.08], [0.0, 0.0, 0.0]]), 4).mul(7).round(decimals=4).tolist()
    [[7.0, -3.0, 1.0], [0.0, 0.0, 0.0]]
    """
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim, keepdim=True) / most
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / safe).round() * scale


@torch.no_grad()
def round_weights(blocks: nn.Module, bits: int) -> None:
    """Round the weights of all linear layers in a model's blocks, in place; embeddings, norms and the head stay.

    GPT-2's linear layers keep their weights transposed, and the experts of mixtures theirs in stacks ``[E, out, in]``.
    """
    from transformers.pytorch_utils import Conv1D

    for module in blocks.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim >= 2:
                dim = 0 if isinstance(module, Conv1D) else parameter.ndim - 1
                parameter.copy_(rounded(parameter, bits, dim))


def unmoved(before: float, after: float) -> float:
    """Return 1 - |after - before| / (|after| + |before|): 1 where an attack changes nothing, 0 where it changes all.

    The symmetric form of OpenUnlearning's robustness to quantisation.

    >>> unmoved(0.2, 0.2), unmoved(0.0, 0.0), unmoved(0.0, 0.5), round(unmoved(0.1, 0.3), 3)
    (1.0, 1.0, 0.0, 0.5)
    """
    total = abs(before) + abs(after)
    return 1.0 if total == 0 else 1 - abs(after - before) / total


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Return the mean height of a curve over its steps (trapezoids).

    >>> area((0, 1, 5), (0.0, 1.0, 1.0))
    0.9
    """
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def halves(groups: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples are trained on again and which are looked at, so that no group is on both sides.

    Args:
        groups: ``[n]``; samples of the same group hold the same fact.
        order: the distinct groups, in the order in which they are taken; the first half is trained on.

    >>> halves(np.array([3, 3, 5, 7]), np.array([7, 3, 5]))
    (array([3]), array([0, 1, 2]))
    """
    taught = np.isin(groups, order[: len(order) // 2])
    return np.flatnonzero(taught), np.flatnonzero(~taught)


def probed(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return what a logistic regression (l2) says of `test` that is fitted on `train`, features standardised on it.

    The solver is stopped early, after 60 steps: what takes longer to separate is not linearly there.

    Args:
        train, test: features ``[n, F]`` and ``[m, F]``.
        labels: ``[n]``.

    Returns:
        Labels ``[m]``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 1:
        return np.full(len(test), labels[0])
    mean, scale = train.mean(0), train.std(0)
    scale[scale < 1e-6] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # a value each is common here
        probe = LogisticRegression(max_iter=60, tol=1e-3).fit((train - mean) / scale, labels)
    return np.asarray(probe.predict((test - mean) / scale))
