"""Exemplars: a memory of sample ids that is renewed after every experience, and what is drawn from it for each step."""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np
import torch
from typing_extensions import override

from strategies.parts.fit import Hooks
from strategies.parts.memory.buffers import draw_positions, keep_balanced, keep_uniform
from strategies.parts.memory.draws import Draws
from streams.data import Batch, Data
from streams.ledger import Door
from streams.positions import positions_in
from streams.randomness import Key

Policy = Literal["reservoir", "class-balanced"]
"""A uniform subset of all that was seen, or an equal share for every class."""


@final
class Remember(Hooks):
    """Notes the outputs of the samples that will be kept, in an epoch that is drawn for each by name."""

    carries = ("_outputs", "_step")

    def __init__(self, memory: np.ndarray, outputs: torch.Tensor, steps_per_epoch: int, epochs: int, key: Key) -> None:
        """Fill `outputs` ``[len(memory), C]`` for the ids `memory`, ascending."""
        self._memory, self._outputs, self._per_epoch = memory, outputs, steps_per_epoch
        self._epoch = (key / "epoch").below(memory, epochs)
        self._step = 0

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        ids, epoch = batch.ids.cpu().numpy(), self._step // self._per_epoch
        rows = np.searchsorted(self._memory, ids).clip(max=len(self._memory) - 1)
        kept = (self._memory[rows] == ids) & (self._epoch[rows] == epoch)
        where = torch.from_numpy(np.flatnonzero(kept))
        self._outputs[torch.from_numpy(rows[kept])] = outputs.detach()[where]
        self._step += 1
        return losses


@final
class Exemplars:
    """Ids and classes of a few samples; the samples themselves stay behind the door."""

    def __init__(self, capacity: int, policy: Policy, key: Key) -> None:
        """Start empty.

        Args:
            capacity: samples kept.
            policy: which ones.
            key: names the priorities by which samples compete for their places.
        """
        self._capacity, self._policy, self._key = capacity, policy, key
        self.ids = np.array([], dtype=np.int64)
        self.classes = np.array([], dtype=np.int64)

    def draw(self, own: np.ndarray, size: int, steps: int, key: Key, door: Door) -> Draws | None:
        """Return what to use beside the experience, or None if nothing else is kept.

        Args:
            own: ids of the experience, which are not drawn.
            size: samples per step.
            steps: of the lesson.
            key: names the order.
            door: to fetch them.
        """
        earlier = np.setdiff1d(self.ids, own, assume_unique=True)
        if not len(earlier):
            return None
        size = min(size, len(earlier))
        positions = draw_positions(earlier, size * steps, key)
        data = door.fetch(earlier)
        return Draws(data, torch.from_numpy(positions).to(data.targets().device).view(steps, size))

    def compete(self, data: Data) -> None:
        """Let the samples of an experience compete for places."""
        new = ~np.isin(data.ids, self.ids)
        ids = np.concatenate([self.ids, data.ids[new]])
        labels = data.targets().cpu().numpy().astype(np.int64)
        classes = np.concatenate([self.classes, labels[new]])
        if self._policy == "reservoir":
            kept_ids = keep_uniform(ids, self._capacity, self._key)
        else:
            kept_ids = keep_balanced(ids, classes, self._capacity, self._key)
        order = np.argsort(ids)
        self.classes = classes[order[positions_in(ids[order], kept_ids)]]
        self.ids = kept_ids

    def purge(self, ids: np.ndarray) -> None:
        """Drop samples; their places go to whatever comes next."""
        keep = ~np.isin(self.ids, ids)
        self.ids, self.classes = self.ids[keep], self.classes[keep]

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Return those of `ids` that are kept."""
        return ids[np.isin(ids, self.ids)]

    def state_dict(self) -> dict[str, Any]:
        """Return ids and classes, copied."""
        return {"ids": torch.from_numpy(self.ids.copy()), "classes": torch.from_numpy(self.classes.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put ids and classes back."""
        self.ids, self.classes = state["ids"].numpy().copy(), state["classes"].numpy().copy()
