"""What CF-k and EU-k share: only the last k layers are trained."""

from __future__ import annotations

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.weights.layers import last_layers
from strategies.unlearners._retained import DefaultRetainConfig, RetainUnlearner, finish
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class LastLayersConfig(DefaultRetainConfig):
    """Options of `cf-k` and `eu-k` (Goel et al. 2022, arXiv 2201.06640)."""

    epochs: int = Field(10, ge=1)
    """Passes over the retained data."""
    k: int = Field(2, ge=1)
    """Layers to train, counted from the output: linear and convolutional ones; norms between them go along."""


class LastLayers(RetainUnlearner):
    """Trains the last k layers on the retained data; all others, and their batch norms, stay to the bit.

    It needs retained data: there is nothing else to train on.
    """

    reads_forget_set = False

    config: LastLayersConfig

    def __init__(self, config: LastLayersConfig, setting: Setting) -> None:
        """Make sure that there are k layers.

        Raises:
            ConfigError: there are fewer.
        """
        super().__init__(config, setting)
        self._mask_of(setting.outline())

    def prepare(self, model: FlatModel, mask: torch.Tensor, key: Key) -> None:
        """Change the last k layers, which are those in `mask`, before they are trained."""

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        model = learner.model
        mask = self._mask_of(model)
        self.prepare(model, mask, key)
        with model.moving_only(mask):
            outcome = fit(model, self.setting.objective, retained, self.config, key)
        return outcome + finish(self.config, learner, retained)

    def _mask_of(self, model: FlatModel) -> torch.Tensor:
        return last_layers(model, self.config.k, f"{self.name}.k")
