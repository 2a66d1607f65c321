"""Source: immutable data with stable sample ids, classes, users and a fixed train/test split."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from streams.errors import DataError
from streams.files import remembered
from streams.inputs import Scale, inputs_of
from streams.pictures import Pictures
from streams.randomness import Key
from streams.text import Text


@dataclass(frozen=True, slots=True, eq=False)
class Corruption:
    """What was done to a source on purpose. Evaluation and schedules know it; no strategy ever does.

    Attributes:
        samples: int64 ids of the manipulated training rows, ascending.
        affected: int64 ids of test rows on which the damage shows, with their true labels.
        unaffected: int64 ids of test rows elsewhere.
        attack: int64 ids of test rows with the label that the damage aims at: right where it succeeds.
        extra: int64 ids of test rows that exist only to show the damage; no unit counts them.
    """

    samples: np.ndarray
    affected: np.ndarray
    unaffected: np.ndarray
    attack: np.ndarray
    extra: np.ndarray


class Columns(NamedTuple):
    """What batches are made of: inputs with their scale, targets and images of every row, on one device."""

    x: torch.Tensor
    y: torch.Tensor
    images: torch.Tensor | Pictures | None
    scale: Scale | None


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set held once, in memory or in a mapped file. A sample's id is its row, for good: nothing re-numbers rows.

    Attributes:
        name: the registered name it was loaded by.
        licence: one line: under which terms the data may be used, and where it comes from.
        x: inputs, ``[N, ...]``: float32, normalised by constants that do not depend on the data chosen; uint8, of which
            `scale` makes such floats; of text, int32 ``[N, 2, L]``, tokens and what each is (see `streams.text.rows`).
            `inputs` gives what models take.
        y: targets, ``[N]``: int64 class ids for classification, float32 for regression.
        class_ids: int64 ``[N]``; for regression a stratum that class-scoped requests can name.
        user_ids: int64 ``[N]``: whose sample it is.
        is_test: bool ``[N]``: held out; test rows are never learned and never deleted.
        class_names, user_names: what the ids mean, in order.
        domain_ids: int64 ``[N]`` or None: a natural domain (font face, camera), where the data has one.
        superclass_ids: int64 ``[C]`` or None: the group of each class (script of a character).
        notes: what a manifest must say about the data ("users: Dirichlet ...").
        corruption: what was done to it on purpose, or None.
        text: tokeniser and alternative answers, where the inputs are text.
        images: uint8 ``[N, M, C, H, W]`` or None: the images that rows of text speak of, in the order in which their
            places come in the row; what a row has fewer than M is black. They may lie in files, to be read when they
            are needed (`Pictures`).
        domain_names: what the domain ids mean, in order; empty where they have no names.
        scale: what makes float32 inputs of `x` where that is kept as bytes, and only there.
        cached: the file of the cache with all rows that `x` is mapped from, or None.
    """

    name: str
    licence: str
    x: torch.Tensor
    y: torch.Tensor
    class_ids: np.ndarray
    user_ids: np.ndarray
    is_test: np.ndarray
    class_names: tuple[str, ...]
    user_names: tuple[str, ...]
    domain_ids: np.ndarray | None = None
    superclass_ids: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    corruption: Corruption | None = None
    text: Text | None = None
    images: torch.Tensor | Pictures | None = None
    domain_names: tuple[str, ...] = ()
    scale: Scale | None = None
    cached: Path | None = None
    _moved: dict[torch.device, Columns] = field(default_factory=dict, init=False, repr=False)
    _digests: list[Path] = field(default_factory=list, init=False, repr=False)  # not there in what `replace` returns

    def __post_init__(self) -> None:
        n = len(self.x)
        for name in ("y", "class_ids", "user_ids", "is_test", "domain_ids", "images"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise DataError(f"Source {self.name!r}: {name} has {len(value)} rows, x has {n}.")
        if not (~self.is_test).any():
            raise DataError(f"Source {self.name!r} has no training samples.")
        if self.class_ids.min() < 0 or self.class_ids.max() >= len(self.class_names):
            raise DataError(f"Source {self.name!r}: class ids must lie in 0..{len(self.class_names) - 1}.")
        if (self.x.dtype == torch.uint8) != (self.scale is not None):
            raise DataError(f"Source {self.name!r}: x is {self.x.dtype}; bytes, and nothing else, need a scale.")
        if self.x.is_floating_point() and not all(bool(torch.isfinite(part).all()) for part in _parts(self.x)):
            raise DataError(f"Source {self.name!r}: x holds values that are not finite.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample for models: that of its `x`, followed by that of its images where it has them."""
        return (*self.x.shape[1:], *(() if self.images is None else self.images.shape[1:]))

    @property
    def sample_bytes(self) -> int:
        """Size of a sample's inputs as models take them."""
        one = self.inputs(np.array([0]))
        images = 0 if self.images is None else math.prod(self.images.shape[1:]) * self.images.dtype.itemsize
        return one.numel() * one.element_size() + images

    @property
    def num_classes(self) -> int:
        """Size of the global label space."""
        return len(self.class_names)

    @property
    def train_ids(self) -> np.ndarray:
        """Ids that may be learned and deleted, ascending."""
        return np.flatnonzero(~self.is_test)

    @property
    def test_ids(self) -> np.ndarray:
        """Ids held out for evaluation, ascending."""
        return np.flatnonzero(self.is_test)

    def on(self, device: str | torch.device) -> Columns:
        """Return inputs, targets and images on a device; they are moved there once in a process."""
        device = torch.device(device)
        if device.type == "cpu":
            return Columns(self.x, self.y, self.images, self.scale)
        if device not in self._moved:
            images = self.images.to(device) if isinstance(self.images, torch.Tensor) else self.images
            scale = None if self.scale is None else self.scale.on(device)
            self._moved[device] = Columns(self.x.to(device), self.y.to(device), images, scale)
        return self._moved[device]

    def inputs(self, ids: np.ndarray | None = None) -> torch.Tensor:
        """Return the inputs of some rows, or of all, as models take them; not to be written to: it may be no copy."""
        return inputs_of(self.x if ids is None else self.x[torch.from_numpy(ids)], self.scale)

    def unpacked(self) -> Source:
        """Return the source with its inputs as models take them all in memory: for whoever changes them."""
        return self if self.scale is None else replace(self, x=self.inputs(), scale=None)

    def keep_digest(self, beside: Path) -> None:
        """Keep digests beside the file of the cache that `x` is mapped from: to make one, all rows are read."""
        self._digests.append(beside)

    def digest(self) -> str:
        """Return a hash of everything that models, streams and evaluation can see (hex, 32 characters)."""
        if not self._digests:
            return self._computed_digest()
        scaled = self.inputs(np.array([0])).numpy()  # what the scale makes of the first row
        rest = hashlib.blake2b(repr((tuple(self.x.shape), self.x.dtype, scaled.dtype)).encode(), digest_size=8)
        rest.update(scaled.tobytes())
        self._hash_the_rest(rest)
        file, status = self._digests[0], self._digests[0].stat()
        stamp = f"{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
        return remembered(file.with_name(f"{file.stem}-{rest.hexdigest()}.digest"), stamp, self._computed_digest)

    def _computed_digest(self) -> str:
        h = hashlib.blake2b(digest_size=16)
        # Bytes are hashed as the floats that they stand for: how a source is kept is not what it is.
        dtype = self.inputs(np.array([0])).numpy().dtype
        h.update(str((dtype, tuple(self.x.shape))).encode())
        for part in _parts(self.x):
            h.update(np.ascontiguousarray(inputs_of(part, self.scale).numpy()).data)
        self._hash_the_rest(h)
        return h.hexdigest()

    def _hash_the_rest(self, h: hashlib.blake2b) -> None:
        """Add everything but the inputs to a hash."""
        columns: dict[str, np.ndarray | None] = {
            "y": self.y.numpy(),
            "class": self.class_ids,
            "user": self.user_ids,
            "test": self.is_test,
            "domain": self.domain_ids,
            "superclass": self.superclass_ids,
        }
        if self.corruption is not None:
            columns |= {f.name: getattr(self.corruption, f.name) for f in fields(self.corruption)}
        for name, value in columns.items():
            if value is not None:
                h.update(str((name, value.dtype, value.shape)).encode())
                h.update(np.ascontiguousarray(value).data)
        # Prompts of image generators are made of names.
        h.update(json.dumps([self.class_names, self.user_names, self.domain_names]).encode())
        if self.text is not None:
            h.update(self.text.digest().encode())
        if self.images is not None:
            h.update(str(tuple(self.images.shape)).encode())
            if isinstance(self.images, Pictures):
                h.update(b"".join(self.images.contents()))
            else:
                h.update(np.ascontiguousarray(self.images.numpy()).data)


def _parts(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield some rows after the other, of about 4 MB as floats: so that no copy of everything is made."""
    yield from x.split(max(1, (1 << 20) // max(1, x[0].numel())))


def copy_groups(source: Source) -> np.ndarray:
    """Return, for each row, the first training row with the same input, images and target, bit for bit.

    Returns:
        int64 ``[N]``; a test row, and a row of which there is no copy, stands for itself.
    """
    images = source.images
    columns = [c.numpy() for c in (source.x, source.y, images) if isinstance(c, torch.Tensor)]
    pictured = images.contents() if isinstance(images, Pictures) else [b""] * len(source)
    groups, first = np.arange(len(source)), dict[bytes, int]()
    for row in source.train_ids.tolist():
        bits = b"".join([*(c[row].tobytes() for c in columns), pictured[row]])
        content = hashlib.blake2b(bits, digest_size=16).digest()
        groups[row] = first.setdefault(content, row)
    return groups


def split_by_hash(class_ids: np.ndarray, fraction: float, key: Key) -> np.ndarray:
    """Hold out a share of every class, chosen by id so that the split never moves.

    Args:
        class_ids: int64 ``[N]``.
        fraction: share of each class held out, in (0, 1); at least one sample of a class stays in training.
        key: names the draw.

    Returns:
        bool ``[N]``, true for test rows.
    """
    is_test = np.zeros(len(class_ids), dtype=bool)
    priority = key.priorities(np.arange(len(class_ids)))
    for c in np.unique(class_ids):
        rows = np.flatnonzero(class_ids == c)
        count = min(round(fraction * len(rows)), len(rows) - 1)
        is_test[rows[np.argsort(priority[rows], kind="stable")[:count]]] = True
    return is_test


def dirichlet_users(class_ids: np.ndarray, num_users: int, alpha: float, key: Key) -> np.ndarray:
    """Assign samples to users: every class is shared out by proportions drawn from a symmetric Dirichlet.

    Small `alpha` makes users specialised, large `alpha` makes them alike (Hsu et al. 2019, arXiv 1909.06335).

    Returns:
        int64 ``[N]`` user of each sample, a function of the sample's id, class and `key` alone.
    """
    users = np.zeros(len(class_ids), dtype=np.int64)
    uniform = (key / "sample").uniform(np.arange(len(class_ids)))
    for c in np.unique(class_ids):
        shares = (key / "class" / int(c)).numpy().dirichlet(np.full(num_users, alpha))
        rows = class_ids == c
        users[rows] = np.searchsorted(np.cumsum(shares)[:-1], uniform[rows], side="right")
    return users
