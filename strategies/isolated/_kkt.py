"""KKT: which earlier subnetwork's features tell a new task's targets apart best (KNN knowledge transfer, ExSSNeT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F

Transfer = Literal["none", "best", "always", "all"]
"""Whose scores a new task starts from: none; the best probe's, if it is above chance; the best probe's in any case;
the mean over all that are above chance."""

FIT_SHARE = 0.66


def probe(features: torch.Tensor, targets: torch.Tensor, neighbours: int) -> float:
    """Return how well nearest neighbours in the first 66 % predict the rest (Euclidean, majority vote).

    Args:
        features: ``[n, F]``.
        targets: ``[n]``: classes, or real values.
        neighbours: k, at most half of what is fitted.

    Returns:
        Accuracy in [0, 1] for classes (among equal votes the lowest class wins), R^2 (at most 1) of the neighbours'
        mean for real values; 0 if fewer than four samples are there.
    """
    fitted = int(FIT_SHARE * len(features))
    if len(features) < 4:
        return 0.0
    k = max(1, min(neighbours, fitted // 2))
    distances = torch.cdist(features[fitted:], features[:fitted], compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(k, largest=False).indices
    if targets.is_floating_point():
        votes, truth = targets[:fitted][nearest], targets[fitted:]
        spread = float((truth - truth.mean()).square().sum())
        return 1 - float((votes.mean(1) - truth).square().sum()) / spread if spread else 0.0
    _, classes = targets.unique(return_inverse=True)
    votes, truth = classes[:fitted][nearest], classes[fitted:]
    return float((F.one_hot(votes).sum(1).argmax(1) == truth).float().mean())


def worthy(qualities: Sequence[float], chance: float, transfer: Transfer) -> list[int]:
    """Return the indices of those to start from; among equals the first is the best.

    >>> worthy([0.4, 0.9, 0.6], 0.5, "best"), worthy([0.4, 0.9, 0.6], 0.5, "all"), worthy([0.4], 0.5, "best")
    ([1], [1, 2], [])
    """
    if not qualities or transfer == "none":
        return []
    if transfer == "all":
        return [i for i, quality in enumerate(qualities) if quality > chance]
    best = max(range(len(qualities)), key=lambda i: qualities[i])
    return [best] if transfer == "always" or qualities[best] > chance else []


def sample_size(samples: int, share: float) -> int:
    """Return how many samples the probe looks at.

    >>> sample_size(21, 0.2)
    5
    """
    return min(samples, math.ceil(share * samples))
