"""Named randomness: every draw has a name, and its bits depend on that name and the run seed alone.

Nothing here touches or reads the global generators, except `seeded_globals` and `seeded_torch`, which lend them to
code that insists on them (module initialisers, dropout, Avalanche) and put them back as they were.

Because a draw never depends on how many draws came before it, removing one event or one sample from a
stream leaves the randomness of all others untouched. That is what makes exact deletion testable, lets
strategies and references be compared in pairs, and makes generator state unnecessary for resuming.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

# splitmix64 finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words that mixes every bit.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix64(ids: np.ndarray, key: int) -> np.ndarray:
    """Hash integer ids under a 64-bit key, vectorised.

    Args:
        ids: int64 array of any shape.
        key: any integer; its low 64 bits are used.

    Returns:
        uint64 array of the same shape. For a fixed key the map is a bijection, so distinct ids never tie.
    """
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) * _GOLDEN + np.uint64(key & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        return z ^ (z >> np.uint64(31))


# Why: docs/decisions.md#randomness-is-a-keyed-hash-order-is-a-keyed-sort
@dataclass(frozen=True, slots=True)
class Key:
    """The name of a random draw: a run seed and a path such as ``key / "order" / "task-3" / 0``.

    >>> key = Key(0) / "order" / "task-3"
    >>> key.number() == (Key(0) / "order" / "task-3").number()
    True
    >>> key.number() == (Key(0) / "order" / "task-4").number()
    False
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def __truediv__(self, part: str | int) -> Key:
        return Key(self.seed, (*self.path, part))

    def number(self) -> int:
        """Return the 63-bit seed of this name (keyed blake2b of seed and path)."""
        parts = [str(p).replace("\\", "\\\\").replace("|", "\\|") for p in self.path]
        kinds = [type(p).__name__ for p in self.path]
        name = "|".join([str(self.seed), *(f"{k}:{p}" for k, p in zip(kinds, parts, strict=True))])
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1

    def numpy(self) -> np.random.Generator:
        """Return a fresh numpy generator for this name."""
        return np.random.Generator(np.random.PCG64(self.number()))

    def torch(self) -> torch.Generator:
        """Return a fresh CPU torch generator for this name."""
        return torch.Generator().manual_seed(self.number())

    def priorities(self, ids: np.ndarray) -> np.ndarray:
        """Return one uint64 per id, a function of this name and that id alone."""
        return mix64(ids, self.number())

    def uniform(self, ids: np.ndarray) -> np.ndarray:
        """Return one float64 in [0, 1) per id, a function of this name and that id alone."""
        return (self.priorities(ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, ids: np.ndarray, count: int | np.ndarray) -> np.ndarray:
        """Return one of the numbers 0, 1 ... `count` - 1 per id (int64); each may have a count of its own.

        >>> Key(0).below(np.arange(5), 3).tolist()
        [1, 0, 0, 2, 2]
        """
        numbers: np.ndarray = (self.uniform(ids) * count).astype(np.int64)
        return numbers

    def uniforms(self, ids: np.ndarray, count: int) -> np.ndarray:
        """Return `count` float64 in (0, 1) per id, ``[n, count]``; a row depends on this name and its id alone."""
        number = self.number()
        # Rows and columns are hashed under different keys: with the same one, row i and column i would cancel out.
        bits = mix64(mix64(ids, number)[:, None] ^ mix64(np.arange(count), ~number), number)
        return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normals(self, ids: np.ndarray, count: int) -> np.ndarray:
        """Return `count` float64 of a standard normal law per id, ``[n, count]``; see `uniforms`."""
        from scipy.special import ndtri

        normals: np.ndarray = ndtri(self.uniforms(ids, count))
        return normals

    def order(self, ids: np.ndarray) -> np.ndarray:
        """Return the positions that shuffle `ids` (int64). Removing an id leaves the others' order as it was."""
        return np.argsort(self.priorities(ids), kind="stable")

    def first(self, ids: np.ndarray, count: int) -> np.ndarray:
        """Return the positions that come first in `order`, in no order of their own; `ids` are distinct.

        It takes time in proportion to their number.
        """
        if count >= len(ids):
            return np.arange(len(ids))
        return np.argpartition(self.priorities(ids), count)[:count]


@contextlib.contextmanager
def seeded_torch(key: Key) -> Iterator[None]:
    """Lend torch's global generators, seeded by `key`, to layers that insist on them (dropout)."""
    # torch.manual_seed would queue a call, with a stack trace, for every device that is never used.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        number = key.number()
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed_all(number)
        yield


@contextlib.contextmanager
def seeded_globals(key: Key) -> Iterator[None]:
    """Lend the global generators (torch, numpy, random), seeded by `key`, to code that insists on them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    number = key.number()
    np.random.seed(number % 2**32)
    random.seed(number)
    try:
        with seeded_torch(key):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
