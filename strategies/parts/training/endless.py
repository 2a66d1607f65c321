"""Batches without an end, for what is trained on beside a pass over something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from typing_extensions import override

from strategies.objectives._base import Objective
from streams.data import Batch, Data
from streams.randomness import Key


@final
class Endless(Iterator[Batch]):
    """Batches pass after pass, each pass in an order and with draws of its own name."""

    def __init__(self, objective: Objective, data: Data, size: int, key: Key) -> None:
        """Begin with the first pass over `data`, which is not empty, in batches of `size`."""
        self._objective, self._data, self._size, self._key = objective, data, size, key
        self._batches: list[Batch] = []
        self._epoch, self._taken = -1, 0

    @override
    def __next__(self) -> Batch:
        if self._taken == len(self._batches):
            self._begin(self._epoch + 1)
        self._taken += 1
        return self._batches[self._taken - 1]

    def state_dict(self) -> dict[str, int]:
        """Return where it stands."""
        return {"epoch": self._epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go there."""
        if state["epoch"] != self._epoch:
            self._begin(state["epoch"])
        self._taken = state["taken"]

    def _begin(self, epoch: int) -> None:
        self._batches = self._objective.batches(self._data, self._size, self._key / "forget-epoch" / epoch)
        self._epoch, self._taken = epoch, 0


def supply(objective: Objective, retained: Data | None, size: int, key: Key) -> Endless | None:
    """Return retained batches of a size for a request named by `key`; None where there is nothing to retain."""
    return Endless(objective, retained, size, key / "retain") if retained is not None and len(retained) else None
