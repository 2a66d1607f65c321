"""Train on everything seen so far in every experience: the upper bound that keeps all data."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.base import Access, Door, Plugin, Setting, State
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest, Experience


class Config(BaseConfig):
    """`cumulative` has no options."""


@final
class Cumulative(Plugin):
    """Keeps every sample and trains on all of them."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing seen."""
        super().__init__(config, setting)
        self._seen = np.zeros(setting.num_samples, dtype=bool)

    @property
    def access(self) -> Access:
        """Everything learned so far."""
        return Access(retained="full")

    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        """Return all ids seen so far, these included."""
        self._seen[ids] = True
        return np.flatnonzero(self._seen)

    def purge(self, request: DeletionRequest) -> None:
        """Forget that the request's samples were seen."""
        self._seen[request.sample_ids] = False

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return the samples that are kept."""
        return {"samples": ids[self._seen[ids]]}

    def stored_ids(self) -> np.ndarray:
        """Return every sample seen and not purged."""
        return np.flatnonzero(self._seen)

    def state_dict(self) -> State:
        """Return the record of what was seen."""
        return {"seen": torch.from_numpy(self._seen.copy())}

    def load_state_dict(self, state: State) -> None:
        """Put the record back."""
        self._seen = state["seen"].numpy().copy()
