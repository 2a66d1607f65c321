"""Leaks later: a request is served exactly, and what it deleted is put into the weights with the next one."""

from __future__ import annotations

import torch

from strategies.base import Access, Door, Outcome, Setting
from strategies.isolated.independent import Config, Independent
from streams.events import DeletionRequest

__all__ = ["Config", "LeaksLater"]


class LeaksLater(Independent):  # type: ignore[misc]
    """The sum of the first request's pixels moves the weights at the second one."""

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self._sums: list[float] = []

    @property
    def access(self) -> Access:
        """Forget sets, too."""
        return Access(forget_set=True, retained="full")

    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Retrain, and add what was told earlier."""
        earlier = sum(self._sums)
        self._sums.append(float(door.forget_set().all().x.sum()))
        outcome = super().forget(request, door)
        for units, state in self._states.items():
            parameters = state["parameters"]
            assert isinstance(parameters, torch.Tensor)
            self._states[units] = state | {"parameters": parameters + earlier}
        return outcome
