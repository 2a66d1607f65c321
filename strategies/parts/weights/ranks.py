"""The k-th smallest of many values, and which of them are the largest or the smallest."""

from __future__ import annotations

import torch


def kth_smallest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k-th smallest (k from 1) of `values` ``[n]``, a scalar tensor.

    Torch's `kthvalue` has no deterministic kernel on GPUs, and its `sort` is several times slower on processors.

    >>> kth_smallest(torch.tensor([3.0, 1.0, 2.0]), 2)
    tensor(2.)
    """
    return values.sort().values[k - 1] if values.is_cuda else values.kthvalue(k).values


def largest(values: torch.Tensor, share: float) -> torch.Tensor:
    """Return which of `values` ``[n]`` are the largest by magnitude, bool ``[n]``: round(share x n), at least one."""
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.abs().topk(max(round(share * len(values)), 1)).indices] = True
    return mask


def smallest(values: torch.Tensor, share: float) -> torch.Tensor:
    """Return which of `values` ``[n]`` are the smallest by magnitude, bool ``[n]``: round(share x n) of them.

    Of equal ones the first count.
    """
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.abs().argsort(stable=True)[: round(share * len(values))]] = True
    return mask
