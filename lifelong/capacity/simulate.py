"""The same systems request by request, without any training: millions of requests in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from strategies.parts.sharding.sequences import Order, matched, prefixes, rotations
from streams.config import Config
from streams.randomness import Key


class System(Config):
    """A sharded system and what is asked of it."""

    method: Literal["sisa", "s3t"] = "s3t"
    """sisa trains again at every request; s3t switches slices off, and trains again when it must."""
    shards: int = Field(5, ge=1)
    """Disjoint parts of the data (m)."""
    slices: int = Field(4, ge=1)
    """Parts of a shard (L)."""
    sequences: int = Field(1, ge=1)
    """Orders trained per shard (B); for s3t."""
    order: Literal["rotations", "even", "matched"] = "rotations"
    """Which: rotations, rotations far apart, or matched to the distribution of requests."""
    samples: int = Field(1_000_000, ge=1)
    """Training samples (N)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over its data in a stage (e)."""
    retrain_when: Literal["all-dead", "shard-dead", "below"] = "all-dead"
    """When s3t trains again: everything when no shard has a usable model, a shard when it has none, or when its longest
    live prefix is shorter than `keep`."""
    keep: int = Field(1, ge=1)
    """Slices that `below` demands."""
    together: int = Field(1, ge=1)
    """Requests that are served together (K)."""
    requests: int = Field(1_000_000, ge=1)
    """Requests in all."""
    distribution: Literal["uniform", "zipf", "recent"] = "uniform"
    """Where requests fall: anywhere; by Zipf's law over all slices; or on late slices more often than on early ones."""
    exponent: float = Field(1.0, ge=0)
    """Of Zipf's law, or of the growth from the first slice to the last."""
    seed: int = Field(0, ge=0)
    """Root of the draws."""

    @model_validator(mode="after")
    def _fits(self) -> System:
        if self.keep > self.slices:
            raise ValueError(f"keep={self.keep} is more than slices={self.slices}")
        if self.order == "matched" and self.sequences > self.slices:
            raise ValueError(f"order: matched gives at most slices={self.slices} sequences")
        return self

    def weights(self) -> np.ndarray:
        """Return the chance of each slice of each shard to be hit by a request, ``[m L]``, shard after shard."""
        if self.distribution == "zipf":
            w = np.arange(1, self.shards * self.slices + 1) ** -self.exponent
            w = w[(Key(self.seed) / "places").order(np.arange(len(w)))]
        elif self.distribution == "recent":
            w = np.tile(np.arange(1, self.slices + 1) ** self.exponent, self.shards)
        else:
            w = np.ones(self.shards * self.slices)
        return w / w.sum()

    def orders(self) -> list[Order]:
        """Return the sequences of every shard."""
        if self.order == "matched":
            by_slice = self.weights().reshape(self.shards, self.slices).sum(0)
            return matched(by_slice, self.sequences)
        return rotations(self.slices, self.sequences, even=self.order == "even")


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """What happened.

    Attributes:
        requests: how many were served.
        retrains: how often all shards were trained again.
        shard_retrains: how often one shard was.
        lifetimes: requests between two trainings of everything, int64.
        first_dead: requests from a training of everything until the first shard died, int64.
        visits: sample visits of all retraining.
        stages: checkpoints that the system stores when fresh.
        best: mean over shards and time of the longest live prefix, in slices.
        histogram: share of time and shards with a longest live prefix of 0, 1 ... L slices.
        idle: mean share of the data that does not count, though but few of its samples were deleted (stranded).
    """

    requests: int
    retrains: int
    shard_retrains: int
    lifetimes: np.ndarray
    first_dead: np.ndarray
    visits: float
    stages: int
    best: float
    histogram: np.ndarray
    idle: float


def simulate(system: System) -> Simulated:
    """Serve all requests of a system."""
    draws = _draws(system)
    return _sisa(system, draws) if system.method == "sisa" else _s3t(system, draws)


def waits(together: int, rate: float, requests: int, key: Key) -> np.ndarray:
    """Return how long each of `requests` Poisson requests waits when they are gathered by `together`."""
    arrivals = np.cumsum(key.numpy().exponential(1 / rate, requests - requests % together)).reshape(-1, together)
    return (arrivals[:, -1:] - arrivals).ravel()


def _draws(system: System) -> np.ndarray:
    generator = (Key(system.seed) / "requests").numpy()
    cells = system.shards * system.slices
    if system.distribution == "uniform":
        return generator.integers(0, cells, system.requests)
    return np.searchsorted(np.cumsum(system.weights())[:-1], generator.random(system.requests), side="right")


def _sisa(system: System, draws: np.ndarray) -> Simulated:
    """Each batch trains every shard it touches again, from the earliest slice it hits."""
    m, slices = system.shards, system.slices
    shard, hit = np.divmod(draws, slices)
    touched = np.arange(len(draws)) // system.together * m + shard
    # By batch and shard, earliest slice first: the first of each group is where training starts again.
    order = np.lexsort((hit, touched))
    first = np.flatnonzero(np.diff(touched[order], prepend=-1))
    stages = np.arange(1, slices + 1)
    redone = np.cumsum(stages[::-1])[::-1]
    visits = system.epochs * system.samples / (m * slices) * float(redone[hit[order][first]].sum())
    none = np.array([], dtype=np.int64)
    histogram = np.eye(slices + 1)[slices]
    return Simulated(len(draws), 0, len(first), none, none, visits, m * slices, float(slices), histogram, 0.0)


def _s3t(system: System, draws: np.ndarray) -> Simulated:
    """Each hit switches its slice off; what must be trained again is decided after each batch."""
    m, slices = system.shards, system.slices
    orders = system.orders()
    best_of = _Best(orders)
    shard_visits = system.epochs * system.samples / (m * slices) * sum(len(p) for p in prefixes(orders))
    need = system.keep if system.retrain_when == "below" else 1
    by_shard = system.retrain_when != "all-dead"
    dead, best, since = [0] * m, [slices] * m, [0] * m
    time_at_length = np.zeros(slices + 1)
    alive, born, retrains, shard_retrains = m, 0, 0, 0
    lifetimes: list[int] = []
    first_dead: list[int] = []
    unhurt = True
    changed: list[int] = []
    together = system.together
    for time, cell in enumerate(draws.tolist(), 1):
        shard, part = divmod(cell, slices)
        bit = 1 << part
        if not dead[shard] & bit:
            dead[shard] |= bit
            length = best_of[dead[shard]]
            if length != best[shard]:
                time_at_length[best[shard]] += time - since[shard]
                since[shard] = time
                best[shard] = length
                changed.append(shard)
                if not length:
                    alive -= 1
                    if unhurt:
                        first_dead.append(time - born)
                        unhurt = False
        if changed and not time % together:
            if by_shard:
                for s in changed:
                    if best[s] < need:
                        shard_retrains += 1
                        time_at_length[best[s]] += time - since[s]
                        alive += not best[s]
                        dead[s], best[s], since[s] = 0, slices, time
            elif not alive:
                retrains += 1
                lifetimes.append(time - born)
                for s in range(m):
                    time_at_length[best[s]] += time - since[s]
                    dead[s], best[s], since[s] = 0, slices, time
                alive, born, unhurt = m, time, True
            changed.clear()
    for s in range(m):
        time_at_length[best[s]] += len(draws) - since[s]
    share = time_at_length / (m * len(draws))
    mean_best = float(share @ np.arange(slices + 1))
    return Simulated(
        len(draws),
        retrains,
        shard_retrains,
        np.array(lifetimes, dtype=np.int64),
        np.array(first_dead, dtype=np.int64),
        (retrains * m + shard_retrains) * shard_visits,
        m * len(prefixes(orders)),
        mean_best,
        share,
        1 - mean_best / slices,
    )


class _Best(dict[int, int]):
    """The longest live prefix for a set of dead slices, worked out when it is first asked for."""

    def __init__(self, orders: Sequence[Order]) -> None:
        super().__init__()
        self._orders = orders

    def __missing__(self, dead: int) -> int:
        longest = 0
        for order in self._orders:
            length = next((n for n, s in enumerate(order) if dead >> s & 1), len(order))
            longest = max(longest, length)
        self[dead] = longest
        return longest
