"""What CF-k and EU-k share: only the last k layers are trained."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Learner, Outcome
from strategies.parts.fit import fit
from strategies.parts.layers import last_layers
from strategies.unlearners._retained import DefaultRetainConfig, finish
from streams.data import Data
from streams.randomness import Key


class LastLayersConfig(DefaultRetainConfig):
    """Options of `cf-k` and `eu-k` (Goel et al. 2022, arXiv 2201.06640)."""

    epochs: int = Field(10, ge=1)
    """Passes over the retained data."""
    k: int = Field(2, ge=1)
    """Layers to train, counted from the output: linear and convolutional ones; norms between them go along."""


def train_last_layers(learner: Learner, data: Data, config: LastLayersConfig, key: Key, where: str) -> Outcome:
    """Train the last k layers on `data`; all others, and their batch norms, stay to the bit."""
    model = learner.model
    with model.moving_only(last_layers(model, config.k, where)):
        outcome = fit(model, learner.setting.objective, data, config, key)
    return outcome + finish(config, learner, data)
