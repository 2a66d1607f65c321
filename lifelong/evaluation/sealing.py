"""Outputs in the shared cache, sealed: who no longer has the samples that they are about cannot read them.

Predictions and features of a sample tell of it; the features of a linear model are the sample. So the key of the cipher
is made of the samples themselves. Every run on the same data makes the same key and shares the cache; where the data is
gone, what is left in the cache is noise. It does not hide a sample from who can guess it, and all others beside it, bit
for bit. The cipher adds the stream of SHAKE-256 under a key of the file's own.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from streams.source import Source

_MAGIC = b"sealed-1"
_DIGEST_SIZE = 16
_VALUES = 1 << 20  # of rows, read at once


def secret_of(source: Source, ids: np.ndarray) -> bytes:
    """Return 32 bytes that depend on every bit of the rows `ids` of a source, and are told nowhere."""
    h = hashlib.blake2b(digest_size=32, person=b"secret")
    for column in (source.x, source.y, source.images):
        if column is not None:
            for rows in torch.from_numpy(ids).split(max(1, _VALUES // max(1, math.prod(column.shape[1:])))):
                h.update(np.ascontiguousarray(column.index_select(0, rows).numpy()).data)
    return h.digest()


def seal(content: bytes, secret: bytes, name: str) -> bytes:
    """Return what `unseal` opens with the same secret and name; under one name there must be one content only."""
    key = _key(secret, name)
    hidden = _added(content, key)
    return _MAGIC + _check(hidden, key) + hidden


def is_sealed(sealed: bytes, secret: bytes, name: str) -> bool:
    """Return whether `unseal` opens it; that takes less than opening it."""
    start = len(_MAGIC) + _DIGEST_SIZE
    return sealed[:start] == _MAGIC + _check(sealed[start:], _key(secret, name))


def unseal(sealed: bytes, secret: bytes, name: str) -> bytes | None:
    """Return the content, or None if it is damaged or was sealed with something else."""
    if not is_sealed(sealed, secret, name):
        return None
    return _added(sealed[len(_MAGIC) + _DIGEST_SIZE :], _key(secret, name))


def _key(secret: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=secret, digest_size=32).digest()


def _check(hidden: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(hidden, key=key, digest_size=_DIGEST_SIZE).digest()


def _added(content: bytes, key: bytes) -> bytes:
    stream = np.frombuffer(hashlib.shake_256(key).digest(len(content)), dtype=np.uint8)
    return (np.frombuffer(content, dtype=np.uint8) ^ stream).tobytes()
