"""Mixture: general samples in the stream of a domain's own, other ones in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from streams.data import Batch, Data
from streams.randomness import Key


@dataclass(frozen=True, slots=True)
class Turns:
    """Whose turn it is in which epoch.

    Attributes:
        ids: int64 ``[epochs, n]``; those of the first epoch stand in for the others, and are replaced by them.
    """

    ids: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Ids of the first epoch, ascending."""
        return np.sort(self.ids[0])

    @property
    def used(self) -> np.ndarray:
        """Ids of all epochs, ascending, each once."""
        return np.unique(self.ids)


def turns(ids: np.ndarray, tokens: np.ndarray, wanted: float, epochs: int, key: Key) -> Turns:
    """Go through `ids` in an order drawn by name, as many per epoch as do not exceed `wanted` tokens in the first.

    Once all have had their turn they are shuffled anew, so that none is used a second time before all others were used
    once, give or take an epoch.

    Args:
        ids: to draw from.
        tokens: of each.
        wanted: in an epoch.
        epochs: how many.
        key: names the draws.
    """
    order = key.order(ids)
    count = int((np.cumsum(tokens[order]) <= wanted).sum())
    walk, round_ = [ids[order]], 1
    while sum(map(len, walk)) < epochs * count:
        walk.append(ids[(key / "again" / round_).order(ids)])
        round_ += 1
    return Turns(np.concatenate(walk)[: epochs * count].reshape(epochs, count))


@final
class Renewal:
    """Replaces the samples that stand in for a mixture by those whose turn it is."""

    def __init__(self, several: list[Turns], data: Data, batch_size: int, samples: int) -> None:
        """Take the turns of several pools.

        Args:
            several: of disjoint ids.
            data: every sample that has a turn.
            batch_size: of the training.
            samples: of an epoch.
        """
        ids = np.concatenate([t.ids for t in several], axis=1)
        order = np.argsort(ids[0])
        self._places = torch.from_numpy(ids[0][order])
        self._turns = torch.from_numpy(np.searchsorted(data.ids, ids[:, order]))
        self._data, self._per_epoch = data, -(-samples // batch_size)

    def renewed(self, batch: Batch, step: int) -> Batch:
        """Return the batch of a step with every sample that stands in for another replaced by that, in its place."""
        held = torch.isin(batch.ids.cpu(), self._places)
        if not held.any():
            return batch
        turn = self._turns[step // self._per_epoch, torch.searchsorted(self._places, batch.ids.cpu()[held])]
        rows = torch.arange(len(batch))
        rows[held] = len(batch) + torch.arange(len(turn))
        new = self._data.batch(turn.to(batch.ids.device))
        return batch.concat(new).rows(rows.to(batch.ids.device))
