"""The state of a strategy put aside: on the CPU, wherever it came from."""

from __future__ import annotations

import torch

from strategies.base import State
from strategies.parts.states import map_tensors


class Snapshot:
    """A state that waits until its next branch is lived; what was on a device takes no place there meanwhile."""

    def __init__(self, state: State) -> None:
        """Take a state of nested dicts, lists and tuples."""
        self._devices: list[torch.device] = []
        self._state = map_tensors(state, self._put_aside)

    def state(self) -> State:
        """Return it, every tensor on the device that it came from."""
        devices = iter(self._devices)
        state: State = map_tensors(self._state, lambda tensor: tensor.to(next(devices)))
        return state

    def _put_aside(self, tensor: torch.Tensor) -> torch.Tensor:
        self._devices.append(tensor.device)
        return tensor.cpu()
