"""What sources of images share: IDX files, keyed subsets per class, normalisation."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from streams.errors import DataError
from streams.randomness import Key


def read_idx(path: Path, ndim: int, remedy: str) -> np.ndarray:
    """Read an IDX file of bytes (the format of MNIST), gzipped if its name ends in ``.gz``.

    Args:
        path: the file.
        ndim: number of dimensions that it must have.
        remedy: what to do about a file that is missing or damaged, for the message.

    Returns:
        uint8 array of `ndim` dimensions.

    Raises:
        DataError: the file is missing, truncated, too long, or not such a file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file. {remedy}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, it seems truncated or damaged ({error}). {remedy}") from error
    header = 4 + 4 * ndim
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic or len(content) < header:
        raise DataError(
            f"{path}: is not an IDX file of {ndim}-dimensional bytes: it starts with {content[:4].hex() or 'nothing'}, "
            f"not {magic.hex()}. {remedy}"
        )
    shape = struct.unpack(f">{ndim}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise DataError(
            f"{path}: holds {len(content) - header} bytes of data where its header {shape} needs {expected}. {remedy}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def limit_per_class(class_ids: np.ndarray, limit: int | None, key: Key) -> np.ndarray:
    """Return rows, int64, ascending: at most `limit` of each class, chosen by a keyed hash; all if it is None.

    A larger limit keeps every row that a smaller one keeps.
    """
    rows = np.arange(len(class_ids))
    if limit is None:
        return rows
    priority = key.priorities(rows)
    kept_ids = []
    for c in np.unique(class_ids):
        class_rows = np.flatnonzero(class_ids == c)
        kept_ids.append(class_rows[np.argsort(priority[class_rows], kind="stable")[:limit]])
    return np.sort(np.concatenate(kept_ids)) if kept_ids else rows


def joined(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return parts of uint8 images, ``[N, H, W]`` or ``[N, C, H, W]``, joined in order: uint8 ``[N, C, H, W]``."""
    x = torch.from_numpy(np.concatenate(images))
    return x.unsqueeze(1) if x.ndim == 3 else x
