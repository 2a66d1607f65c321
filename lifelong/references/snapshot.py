"""The state of a strategy put aside: on the CPU, wherever it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from strategies.base import State


class Snapshot:
    """A state that waits until its next branch is lived; what was on a device takes no place there meanwhile."""

    def __init__(self, state: State) -> None:
        """Take a state of nested dicts, lists and tuples."""
        self._devices: list[torch.device] = []
        self._state = _mapped(state, self._put_aside)

    def state(self) -> State:
        """Return it, every tensor on the device that it came from."""
        devices = iter(self._devices)
        state: State = _mapped(self._state, lambda tensor: tensor.to(next(devices)))
        return state

    def _put_aside(self, tensor: torch.Tensor) -> torch.Tensor:
        self._devices.append(tensor.device)
        return tensor.cpu()


def _mapped(state: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a state with `change` applied to every tensor, in the order in which they stand."""
    if isinstance(state, torch.Tensor):
        return change(state)
    if isinstance(state, dict):
        return type(state)((key, _mapped(value, change)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(_mapped(value, change) for value in state)
    return state
