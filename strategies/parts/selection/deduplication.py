"""What says again what an earlier sample says: by cosine (Abbas et al. 2023, arXiv 2303.09540), or bit for bit."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from streams.data import Data


def earlier_similarity(features: torch.Tensor, memory: int = 1 << 28) -> tuple[np.ndarray, np.ndarray]:
    """Return how like an earlier sample each one is, and which that is.

    M_j = max over i < j of cos(r_i, r_j), at least 0; the first of several copies has no earlier partner. The matrix of
    all pairs is made in blocks of rows.

    Args:
        features: float ``[n, F]`` in the order that decides what is earlier.
        memory: bytes that a block may take.

    Returns:
        M, float32 ``[n]``, and the position of the most similar earlier sample, int64 ``[n]``, -1 where there is none.
    """
    r = features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
    n = len(r)
    highest, partner = np.zeros(n, dtype=np.float32), np.full(n, -1, dtype=np.int64)
    size = max(memory // (4 * max(n, 1)), 1)
    for start in range(0, n, size):
        stop = min(start + size, n)
        similar = r[start:stop] @ r[:stop].t()
        similar[:, start:].tril_(-1)  # of this block with itself, what is earlier; zeros elsewhere
        best = similar.max(1)
        similarity = best.values.cpu().numpy()
        highest[start:stop] = similarity  # 0 at least: of itself
        partner[start:stop] = np.where(similarity > 0, best.indices.cpu().numpy(), -1)
    return highest, partner


def least_redundant(similarity: np.ndarray, count: int) -> np.ndarray:
    """Return which samples stay, bool ``[n]``: the `count` with the lowest similarity, among equals the earlier."""
    stays = np.zeros(len(similarity), dtype=bool)
    stays[np.argsort(similarity, kind="stable")[:count]] = True
    return stays


def first_copies(data: Data, batch_size: int = 1024) -> np.ndarray:
    """Return the positions of samples of which no sample with a lower id is a copy, input and target bit for bit."""
    first_positions: dict[bytes, int] = {}
    position = 0
    for batch in data.batches(batch_size):
        columns = [c.cpu().numpy() for c in (*batch.inputs, batch.y)]
        for i in range(len(batch)):
            content = b"".join(c[i].tobytes() for c in columns)
            first_positions.setdefault(hashlib.blake2b(content, digest_size=16).digest(), position)
            position += 1
    return np.array(list(first_positions.values()), dtype=np.int64)
