"""Training on some samples with other inputs than their own."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.parts.fit import Hooks
from streams.data import Batch


@final
class Poison(Hooks):
    """Replaces the inputs of some samples in every batch."""

    carries = ()

    def __init__(self, ids: np.ndarray, x: torch.Tensor, num_samples: int) -> None:
        """Replace those of `ids` by ``x [n, ...]``."""
        self._x = x
        self._place = torch.full((num_samples,), -1, device=x.device)
        self._place[torch.tensor(ids, device=x.device)] = torch.arange(len(ids), device=x.device)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        place = self._place[batch.ids]
        rows = torch.nonzero(place >= 0).squeeze(1)
        return replace(batch, x=batch.x.index_copy(0, rows, self._x[place[rows]]))
