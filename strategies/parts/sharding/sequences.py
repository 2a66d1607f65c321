"""In which orders the slices of a shard are learned, so that some order keeps a long prefix when slices are deleted.

After S3T (arXiv 2406.16257). A sequence is a permutation of the slices; deleting a slice costs it that slice and all
that come later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from streams.errors import ConfigError

Order = tuple[int, ...]

_MOST_DRAWS = 1000
"""Draws of an order for each one that is wanted."""


def rotations(slices: int, count: int, even: bool = False) -> list[Order]:
    """Return `count` different orders whose prefixes are used as evenly as can be, without any prior (Algorithm 1).

    Up to `slices` they are rotations, and no slice is at the same place twice. Beyond, the rest of each sequence behind
    a common first slice is rotated in turn, and so on.

    Args:
        slices: L.
        count: B, at most L!.
        even: for B < L, rotate by floor(L / B) instead of 1; then prefixes of different sequences overlap less.

    >>> rotations(4, 3)
    [(0, 1, 2, 3), (3, 0, 1, 2), (2, 3, 0, 1)]
    >>> rotations(4, 2, even=True)
    [(0, 1, 2, 3), (2, 3, 0, 1)]
    """
    stride = slices // count if even and count < slices else 1
    return _spread(tuple(range(slices)), min(count, math.factorial(slices)), stride)


def _spread(rest: Order, count: int, stride: int = 1) -> list[Order]:
    turned = [rest[len(rest) - i :] + rest[: len(rest) - i] for i in range(len(rest))]
    if count <= len(rest):
        return [turned[i * stride] for i in range(count)]
    each, more = divmod(count, len(rest))
    return [(t[0], *tail) for i, t in enumerate(turned) for tail in _spread(t[1:], each + (i < more))]


def score(order: Sequence[int], prior: Sequence[float], hits: int = 1, weighted: bool = False) -> float:
    """Return how many slices of a (partial) order are expected to survive `hits` requests.

    sum_n (1 - c_n)^t, where c_n is the chance that a request hits one of the first n slices. `weighted` puts the factor
    n before each term, as the paper prints it (Eq. 24), which is not that expectation.

    >>> round(score((0, 1, 2, 3), (0.1, 0.2, 0.3, 0.4)), 2), round(score((3, 2, 1, 0), (0.1, 0.2, 0.3, 0.4)), 2)
    (2.0, 1.0)
    """
    alive = np.clip(1 - np.cumsum([prior[i] for i in order]), 0, 1) ** hits
    return float((alive * np.arange(1, len(order) + 1)).sum() if weighted else alive.sum())


def matched(prior: Sequence[float], count: int, hits: int = 1, weighted: bool = False) -> list[Order]:
    """Return the `count` best of L orders that form a Latin square, built by bipartite matching (Algorithm 2).

    Every order starts with a slice of its own; round by round each gets one that it lacks, so that the summed score is
    highest.

    Args:
        prior: chance of each slice to be hit by a request.
        count: B, at most L.
        hits: t of the score.
        weighted: see `score`.
    """
    slices = len(prior)
    orders: list[Order] = [(i,) for i in range(slices)]
    forbidden = -1e9
    for _ in range(slices - 1):
        gain = np.full((slices, slices), forbidden)
        for row, order in enumerate(orders):
            for s in range(slices):
                if s not in order:
                    gain[row, s] = score((*order, s), prior, hits, weighted)
        # The graph of what is lacking is regular, so that a perfect matching always exists.
        rows, columns = linear_sum_assignment(gain, maximize=True)
        orders = [(*orders[r], int(c)) for r, c in zip(rows, columns, strict=True)]
    ranked = sorted(orders, key=lambda o: -score(o, prior, hits, weighted))
    return ranked[:count]


def drawn(prior: Sequence[float], count: int, generator: np.random.Generator) -> list[Order]:
    """Return `count` different orders (more than L, at most L!), drawn so that what is seldom hit comes early.

    Raises:
        ConfigError: a prior is so uneven that so many orders hardly ever come up.
    """
    weights = np.maximum(1 - np.asarray(prior), 1e-9)
    wanted = min(count, math.factorial(len(weights)))
    chosen: dict[Order, None] = {}
    for _ in range(_MOST_DRAWS * wanted):
        # Exponential clocks: the order of arrival is a draw without replacement, in proportion to the weights.
        order = tuple(np.argsort(generator.exponential(size=len(weights)) / weights).tolist())
        chosen.setdefault(order)
        if len(chosen) == wanted:
            return list(chosen)
    raise ConfigError(
        f"isolated.prior: {tuple(prior)} is so uneven that {len(chosen)} of the {wanted} orders wanted came up in "
        f"{_MOST_DRAWS * wanted} draws. Lower `sequences`, or make the prior more even."
    )


def prefixes(orders: Sequence[Order]) -> list[Order]:
    """Return the different prefixes of all orders, short ones first: what has to be trained, and kept.

    >>> len(prefixes(rotations(3, 6))), len(prefixes(rotations(4, 24)))
    (15, 64)
    """
    return sorted({o[:n] for o in orders for n in range(1, len(o) + 1)}, key=lambda p: (len(p), p))


def edit_distance(orders: Sequence[Order]) -> float:
    """Return the mean number of places at which two of the orders differ."""
    pairs = [(a, b) for i, a in enumerate(orders) for b in orders[i + 1 :]]
    return float(np.mean([sum(x != y for x, y in zip(a, b, strict=True)) for a, b in pairs]))
