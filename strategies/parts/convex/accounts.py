"""What every request has spent of its budget: costs of publications, which add in squares."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import numpy as np
import torch

Scope = Literal["transcript", "last"]


@final
class Accounts:
    """One account a request, from its service on; learning all of its samples again closes it."""

    def __init__(self, num_samples: int, budget: float, scope: Scope) -> None:
        """Open none yet.

        Args:
            num_samples: rows of the source.
            budget: the mu that each account may spend.
            scope: whether all publications since the request count, or the last one alone.
        """
        self._budget, self._scope = budget, scope
        self._names: list[str] = []
        self._squares = np.zeros(0)
        self._counts = np.zeros(0, dtype=np.int64)
        self._owner = np.full(num_samples, -1)

    def open(self, name: str, ids: np.ndarray) -> None:
        """Open the account of a request for some samples."""
        self._owner[ids] = len(self._names)
        self._names.append(name)
        self._squares = np.append(self._squares, 0.0)
        self._counts = np.append(self._counts, 0)

    def learned(self, ids: np.ndarray) -> None:
        """Close the accounts of which no sample stays deleted, now that these are learned again."""
        self._owner[ids] = -1
        left = np.isin(np.arange(len(self._names)), self._owner)
        number = np.cumsum(left) - 1
        self._owner = np.where(self._owner >= 0, number[self._owner], -1) if len(number) else self._owner
        self._names = [name for name, stays in zip(self._names, left, strict=True) if stays]
        self._squares, self._counts = self._squares[left], self._counts[left]

    def fits(self, cost: float) -> bool:
        """Return whether every account that is within its budget stays there after a publication of that cost."""
        within = self._squares <= self._budget**2
        return bool((self._after(cost)[within] <= self._budget**2).all())

    def charge(self, cost: float) -> None:
        """Let every account pay for a publication."""
        self._squares = self._after(cost)
        self._counts = self._counts + 1

    def owe(self, mu: float) -> None:
        """Let the account that was opened last owe a cost alone, once."""
        self._squares[-1] += mu**2
        self._counts[-1] += 1

    def spent(self) -> dict[str, float]:
        """Return the mu of every open account."""
        return {name: math.sqrt(square) for name, square in zip(self._names, self._squares.tolist(), strict=True)}

    def publications(self) -> dict[str, int]:
        """Return how many publications every open account has paid for."""
        return dict(zip(self._names, self._counts.tolist(), strict=True))

    def exhausted(self) -> tuple[str, ...]:
        """Return the requests that have spent more than their budget."""
        return tuple(n for n, s in zip(self._names, self._squares.tolist(), strict=True) if s > self._budget**2)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, copied."""
        return {
            "names": list(self._names),
            "squares": torch.from_numpy(self._squares.copy()),
            "counts": torch.from_numpy(self._counts.copy()),
            "derived": torch.from_numpy(self._owner.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self._names = list(state["names"])
        self._squares, self._counts = state["squares"].numpy().copy(), state["counts"].numpy().copy()
        self._owner = state["derived"].numpy().copy()

    def _after(self, cost: float) -> np.ndarray:
        return cost**2 + (self._squares if self._scope == "transcript" else np.zeros_like(self._squares))
