"""Listens: every answer depends on how often it was asked before."""

from __future__ import annotations

import torch

from strategies.base import Setting
from strategies.isolated.independent import Config, Independent
from streams.data import Batch

__all__ = ["Config", "Listens"]


class Listens(Independent):  # type: ignore[misc]
    """As a normalisation that adapts itself to the inputs that it is tested on."""

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self._asked = 0

    def predict(self, batch: Batch) -> torch.Tensor:
        """Answer a little louder every time."""
        self._asked += 1
        return super().predict(batch) * (1 + self._asked)
