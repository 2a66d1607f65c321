"""What CF-k and EU-k share: only the last k layers are trained."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.weights.layers import last_layers
from strategies.unlearners._retained import DefaultRetainConfig, finish, retained_access, some_retained_data
from streams.events import DeletionRequest
from streams.randomness import Key


class LastLayersConfig(DefaultRetainConfig):
    """Options of `cf-k` and `eu-k` (Goel et al. 2022, arXiv 2201.06640)."""

    epochs: int = Field(10, ge=1)
    """Passes over the retained data."""
    k: int = Field(2, ge=1)
    """Layers to train, counted from the output: linear and convolutional ones; norms between them go along."""


class LastLayers(Unlearner):
    """Trains the last k layers on the retained data; all others, and their batch norms, stay to the bit."""

    config: LastLayersConfig
    name: ClassVar[str]
    """Of the unlearner, for messages and the names of its randomness."""

    def __init__(self, config: LastLayersConfig, setting: Setting) -> None:
        """Make sure that there are k layers.

        Raises:
            ConfigError: there are fewer.
        """
        super().__init__(config, setting)
        self._mask_of(setting.make_model())

    @property
    @override
    def access(self) -> Access:
        return retained_access(self.config.retained, forget_set=False)

    @property
    @override
    def needs_retained(self) -> bool:
        """There is nothing else to train on."""
        return True

    def prepare(self, model: FlatModel, mask: torch.Tensor, key: Key) -> None:
        """Change the last k layers, which are those in `mask`, before they are trained."""

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        data = some_retained_data(self.config.retained, learner, door, request)
        key, model = self.setting.key / self.name / request.name, learner.model
        mask = self._mask_of(model)
        self.prepare(model, mask, key)
        with model.moving_only(mask):
            outcome = fit(model, self.setting.objective, data, self.config, key)
        return (outcome + finish(self.config, learner, data)).graded("none")

    def _mask_of(self, model: FlatModel) -> torch.Tensor:
        return last_layers(model, self.config.k, f"{self.name}.k")
