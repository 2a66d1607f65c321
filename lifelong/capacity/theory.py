"""Closed forms for SISA and S3T: lifetime, retention, cost and storage. Requests are uniform over the shards' slices.

Symbols: m shards, L slices, B sequences per shard, N samples, e epochs per stage, K requests served together. Costs are
in sample visits: one sample in one epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from scipy.integrate import quad

from strategies.parts.sharding.sequences import Order


def harmonic(n: int) -> float:
    """Return 1 + 1/2 + ... + 1/n.

    >>> round(harmonic(4), 6)
    2.083333
    """
    return math.fsum(1 / i for i in range(1, n + 1))


def deletion_rate(m: int, slices: int, sequences: int = 1) -> float:
    """Return the expected number of requests until no shard has a usable model: m L H(m min(B, L)).

    A shard is dead once the first slices of all its sequences are hit, so this is a coupon collector's time.

    >>> round(deletion_rate(5, 4), 3), round(deletion_rate(5, 4, 4), 3)
    (45.667, 71.955)
    """
    return m * slices * harmonic(m * min(sequences, slices))


def first_shard_dead(m: int, slices: int, sequences: int = 1) -> float:
    """Return the expected number of requests until one shard has no usable model.

    m L times the integral over t of (1 - (1 - e^-t)^min(B, L))^m.

    >>> round(first_shard_dead(5, 4, 2), 3)
    10.127
    """
    b = min(sequences, slices)
    integral, _ = quad(lambda t: (1 - (1 - math.exp(-t)) ** b) ** m, 0, math.inf)
    return m * slices * integral


def shard_retrain_rate(slices: int, sequences: int = 1) -> float:
    """Return retrained shards per request, where each is trained again when it is dead: 1 / (L H(min(B, L)))."""
    return 1 / (slices * harmonic(min(sequences, slices)))


def training_cost(samples: float, slices: int, epochs: float = 1) -> float:
    """Return the sample visits of training every shard in one order: e N (L + 1) / 2."""
    return epochs * samples * (slices + 1) / 2


def request_cost(samples: float, m: int, slices: int, epochs: float = 1) -> float:
    """Return the expected sample visits of one request in SISA: e N / (m L) (L + 1)(2L + 1) / 6."""
    return epochs * samples / (m * slices) * (slices + 1) * (2 * slices + 1) / 6


def batch_cost(samples: float, m: int, slices: int, together: int, epochs: float = 1) -> float:
    """Return the expected sample visits of K requests that SISA serves together.

    e N / (m L) m sum_j j (1 - (1 - j / (m L))^K). Draws are with replacement, and data is taken not to shrink.

    >>> round(batch_cost(20, 5, 4, 10), 3)
    38.419
    """
    cells = m * slices
    total = sum(j * (1 - (1 - j / cells) ** together) for j in range(1, slices + 1))
    return epochs * samples / cells * m * total


def touched_shards(m: int, together: int) -> float:
    """Return the expected number of shards that K requests touch: m (1 - (1 - 1/m)^K)."""
    return m * (1 - (1 - 1 / m) ** together)


def kept(orders: Sequence[Order], m: int, requests: int, length: int) -> float:
    """Return the chance that a shard still has a prefix of `length` slices after `requests` requests to the system.

    Exact, by inclusion and exclusion over the orders' prefixes.

    >>> from strategies.parts.sharding.sequences import rotations
    >>> round(kept(rotations(4, 4), 1, 2, 2), 4)
    0.75
    """
    windows = sorted({frozenset(o[:length]) for o in orders}, key=sorted)
    cells = m * len(orders[0])
    total = 0.0
    for size in range(1, len(windows) + 1):
        for chosen in combinations(windows, size):
            hit = len(frozenset().union(*chosen))
            total += (-1) ** (size + 1) * (1 - hit / cells) ** requests
    return total


def kept_if_independent(slices: int, sequences: int, requests: int, length: int) -> float:
    """Return the paper's form of `kept` for requests to one shard, which takes sequences to be independent.

    1 - (1 - (1 - k/L)^r)^B', with B' at most the number of ordered prefixes of length k.

    >>> round(kept_if_independent(4, 4, 2, 2), 4)
    0.6836
    """
    b = min(sequences, math.perm(slices, length))
    return 1 - (1 - (1 - length / slices) ** requests) ** b


def best_prefix(orders: Sequence[Order], m: int, requests: int) -> float:
    """Return the expected length of the longest live prefix of a shard after `requests` requests to the system."""
    return sum(kept(orders, m, requests, k) for k in range(1, len(orders[0]) + 1))


def training_per_request(
    samples: float, m: int, slices: int, sequences: int, epochs: float = 1, by_shard: bool = False
) -> float:
    """Return sample visits per request that retraining costs S3T; it grows with B, while outages become rarer.

    B e N (L + 1) / 2 per lifetime, or per shard and retrained shard.
    """
    retraining = sequences * training_cost(samples, slices, epochs)
    if by_shard:
        return retraining / m * shard_retrain_rate(slices, sequences)
    return retraining / deletion_rate(m, slices, sequences)


def exposure(together: int, rate: float) -> float:
    """Return the mean wait of a request when K are gathered that arrive at `rate` per unit of time.

    (K - 1) / (2 rate).
    """
    return (together - 1) / (2 * rate)
