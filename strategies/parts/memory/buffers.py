"""Which samples a memory of fixed size keeps: pure functions of ids and named priorities.

A uniform random subset is kept by giving every id a priority that depends on its name alone and keeping the lowest.
This has the law of reservoir sampling (Vitter 1985), but no position in the stream enters: taking one sample out of
the stream changes the memory by that sample and its successor only.
"""

from __future__ import annotations

import numpy as np

from streams.randomness import Key


# Why: docs/decisions.md#memories-are-bottom-k-samples-instead-of-reservoirs
def keep_uniform(ids: np.ndarray, capacity: int, key: Key) -> np.ndarray:
    """Return the `capacity` ids with the lowest priorities (all if there are fewer), int64, ascending."""
    return np.sort(ids[key.order(ids)[:capacity]])


def shares(count: int, most: int, key: Key) -> list[int]:
    """Return how many samples may be read of each of `count` memories, so that they are at most `most` together.

    As many of each; if there are more memories than samples may be read, one sample of some, which are drawn.
    """
    if count <= most:
        return [most // max(count, 1)] * count
    return np.isin(np.arange(count), key.order(np.arange(count))[:most]).astype(int).tolist()


def keep_balanced(ids: np.ndarray, classes: np.ndarray, capacity: int, key: Key) -> np.ndarray:
    """Return at most `capacity` ids with as even a share for every class as the ids allow, ascending.

    Classes with fewer samples than their share leave the rest to the others. `ids` and `classes` are int64 ``[N]``.
    """
    order = key.order(ids)
    ranked_classes = classes[order]
    rank = np.empty(len(ids), dtype=np.int64)
    for c in np.unique(classes):
        rank[ranked_classes == c] = np.arange((ranked_classes == c).sum())
    # Lowest rank within the class first; among equals the priority decides.
    chosen = order[np.argsort(rank, kind="stable")[:capacity]]
    return np.sort(ids[chosen])


def draw_positions(ids: np.ndarray, count: int, key: Key) -> np.ndarray:
    """Return `count` positions into `ids`, int64 ``[count]``, pass after pass, each in an order of its own name."""
    passes = -(-count // len(ids)) if count else 1
    return np.concatenate([(key / "pass" / p).order(ids) for p in range(passes)])[:count]
