"""Train on everything seen so far in every experience: the upper bound that keeps all data."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Access, Door, Plugin, Setting, State
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest, Experience


class Config(BaseConfig):
    """`cumulative` has no options."""


@final
class Cumulative(Plugin):
    """Keeps every sample and trains on all of them."""

    state_grows = True

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing seen."""
        super().__init__(config, setting)
        self._seen = np.zeros(setting.num_samples, dtype=bool)

    @property
    @override
    def access(self) -> Access:
        return Access(retained="full")

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        self._seen[ids] = True
        return np.flatnonzero(self._seen)

    @override
    def purge(self, request: DeletionRequest) -> None:
        self._seen[request.sample_ids] = False

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"samples": ids[self._seen[ids]]}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.flatnonzero(self._seen)

    @override
    def state_dict(self) -> State:
        return {"seen": torch.from_numpy(self._seen.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._seen = state["seen"].numpy().copy()
