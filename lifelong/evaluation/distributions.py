"""Predicted distributions of some samples: whole, or of many classes only the most likely ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

_VALUES = 1 << 22  # of whole distributions, at once


@dataclass(frozen=True, slots=True, eq=False)
class Distributions:
    """What a model predicts of D samples.

    Attributes:
        probabilities: float32 ``[D, K]``; or ``[D, k]`` of the k most likely classes, highest first.
        top_classes: int32 ``[D, k]``, which classes these are, or None where there are all.
        num_classes: K.
    """

    probabilities: np.ndarray
    top_classes: np.ndarray | None
    num_classes: int

    def whole(self, at: np.ndarray) -> np.ndarray:
        """Return float32 ``[len(at), K]`` of the samples at some positions.

        Classes that are not kept share evenly what the others leave. So the probability of each of them is wrong by
        less than the mass that is left, and the sum over all of them is right.
        """
        kept = self.probabilities[at]
        if self.top_classes is None:
            return kept
        rest = np.clip(1 - kept.sum(1, keepdims=True, dtype=np.float64), 0, 1)
        shares = rest / max(self.num_classes - kept.shape[1], 1)
        distributions = np.repeat(shares.astype(np.float32), self.num_classes, axis=1)
        np.put_along_axis(distributions, self.top_classes[at].astype(np.int64), kept, axis=1)
        return distributions


def mean_over(
    formula: Callable[[np.ndarray, np.ndarray], float], one: Distributions, other: Distributions, at: np.ndarray
) -> float:
    """Return a formula's mean over pairs of distributions, of two models on the samples at some positions.

    Of many classes, whole distributions are never there for all samples at once.
    """
    count = -(-len(at) * one.num_classes // _VALUES)
    if (one.top_classes is None and other.top_classes is None and count == 1) or not len(at):
        return formula(one.whole(at), other.whole(at))
    parts = np.array_split(at, count)
    means = [formula(one.whole(part), other.whole(part)) for part in parts]
    return float(np.average(means, weights=[len(part) for part in parts]))


def gathered(batches: Iterable[torch.Tensor | None], most: int | None, count: int) -> Distributions | None:
    """Return what a model predicts, batch by batch, or None where it predicts no distribution.

    Args:
        batches: float ``[B, K]`` each, or None, on any device; one at a time is there in whole.
        most: classes to keep of each sample, the most likely ones; None keeps all.
        count: samples of all batches together.
    """
    kept: Distributions | None = None
    start = 0
    for batch in batches:
        if batch is None:
            continue
        num_classes = batch.shape[1]
        is_whole = most is None or most >= num_classes
        if kept is None:
            shape = count, num_classes if is_whole or most is None else most
            top_classes = None if is_whole else np.empty(shape, dtype=np.int32)
            kept = Distributions(np.empty(shape, dtype=np.float32), top_classes, num_classes)
        stop = start + len(batch)
        if kept.top_classes is None:
            kept.probabilities[start:stop] = batch.float().cpu().numpy()
        else:
            top = batch.topk(kept.probabilities.shape[1], dim=1)
            kept.probabilities[start:stop] = top.values.float().cpu().numpy()
            kept.top_classes[start:stop] = top.indices.cpu().numpy()
        start = stop
    return kept
