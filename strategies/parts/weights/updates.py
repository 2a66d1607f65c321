"""A log of the changes that training steps made to the weights, and of the samples that each step was taken on."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch


@final
class UpdateLog:
    """One weight change per step, and the ids behind it."""

    def __init__(self) -> None:
        """Start empty."""
        self._changes: list[torch.Tensor] = []
        self._ids: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, ids: np.ndarray, change: torch.Tensor) -> None:
        """Note a step: the distinct ids in its batch and the change ``[P]`` that it made."""
        self._ids.append(np.unique(ids))
        self._changes.append(change)

    def touched(self, ids: np.ndarray) -> list[int]:
        """Return the positions of the steps that saw one of `ids`."""
        return [i for i, seen in enumerate(self._ids) if np.isin(seen, ids).any()]

    def take(self, ids: np.ndarray) -> torch.Tensor | None:
        """Remove the steps that saw one of `ids` and return the sum of their changes ``[P]``; None if there is none."""
        touched = self.touched(ids)
        if not touched:
            return None
        total = torch.stack([self._changes[i] for i in touched]).sum(0)
        keep = [i for i in range(len(self)) if i not in set(touched)]
        self._changes, self._ids = [self._changes[i] for i in keep], [self._ids[i] for i in keep]
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return changes ``[steps, P]`` and ids, copied."""
        changes = torch.stack(self._changes) if self._changes else torch.empty(0)
        return {"changes": changes, "derived": [torch.from_numpy(ids.copy()) for ids in self._ids]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the log back."""
        self._ids = [ids.numpy().copy() for ids in state["derived"]]
        self._changes = list(state["changes"].clone()) if self._ids else []
