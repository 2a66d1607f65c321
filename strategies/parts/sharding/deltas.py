"""Checkpoints as differences: what a model became, stored as what changed since the checkpoint before, to the bit.

Neighbouring checkpoints share most of their sign and exponent bits. Their exclusive or, sorted into byte planes,
compresses without loss; a float difference would round.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

from strategies.parts.model import FlatModel

_WORD = 4


# Why: docs/decisions.md#checkpoint-differences-are-exclusive-ors
def pack(model: FlatModel) -> np.ndarray:
    """Return parameters and buffers as bytes, uint8 ``[N]``, in the order of the network."""
    packed, start = np.empty(model.num_bytes(), dtype=np.uint8), 0
    for tensor in (model.parameters, *model.network.buffers()):
        part = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        packed[start : start + len(part)] = part
        start += len(part)
    return packed


def unpack(model: FlatModel, packed: np.ndarray) -> None:
    """Put back into `model` what `pack` returned; bytes beyond are left to the caller."""
    start = 0
    for tensor in (model.parameters, *model.network.buffers()):
        size = tensor.numel() * tensor.element_size()
        part = torch.from_numpy(packed[start : start + size])
        part = part.clone() if start % tensor.element_size() else part
        tensor.copy_(part.view(tensor.dtype).view(tensor.shape))
        start += size


def encode(new: np.ndarray, old: np.ndarray) -> torch.Tensor:
    """Return what turns `old` into `new` (both uint8 ``[N]``), compressed, as uint8 ``[n]``.

    >>> old, new = np.arange(8, dtype=np.uint8), np.arange(8, dtype=np.uint8) * 3
    >>> bool((decode(encode(new, old), old) == new).all())
    True
    """
    changed = np.zeros(-(-len(new) // _WORD) * _WORD, dtype=np.uint8)
    np.bitwise_xor(new, old, out=changed[: len(new)])
    planes = np.ascontiguousarray(changed.reshape(-1, _WORD).T)
    del changed
    return torch.frombuffer(bytearray(zlib.compress(planes.data, 1)), dtype=torch.uint8)


def decode(delta: torch.Tensor, old: np.ndarray) -> np.ndarray:
    """Return the `new`, uint8 ``[N]``, of which `delta` is the encoding."""
    planes = np.frombuffer(zlib.decompress(delta.numpy().data), dtype=np.uint8).reshape(_WORD, -1)
    new = planes.T.flatten()[: len(old)]  # a copy, to be written to
    return np.bitwise_xor(new, old, out=new)
