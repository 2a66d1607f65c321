"""Walking through saved states: nested dicts, lists and tuples of tensors and plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def map_tensors(state: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a state with `change` applied to every tensor, in the order in which they stand.

    >>> map_tensors({"a": [torch.ones(1), "text"]}, lambda tensor: tensor + 1)
    {'a': [tensor([2.]), 'text']}
    """
    if isinstance(state, torch.Tensor):
        return change(state)
    if isinstance(state, dict):
        return type(state)((key, map_tensors(value, change)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(map_tensors(value, change) for value in state)
    return state
