"""Looks: answers by what it is shown of the samples beside their inputs, or changes what all strategies share."""

from __future__ import annotations

from typing import Literal

import torch

from strategies.base import Door, Outcome, Setting
from strategies.isolated.independent import Config as IndependentConfig
from strategies.isolated.independent import Independent
from streams.data import Batch
from streams.events import Experience


class Config(IndependentConfig):
    """Options."""

    attack: Literal["hoard", "oracle", "threads"]


class Looks(Independent):  # type: ignore[misc]
    """Says the label that it is shown, or the first one; a hoarder fails where it is shown any, or an id."""

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self._attack = config.attack

    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Learn nothing."""
        if self._attack == "threads":
            torch.set_num_threads(2)
        return Outcome(steps=1)

    def predict(self, batch: Batch) -> torch.Tensor:
        """Answer by the label."""
        if self._attack == "hoard" and (bool((batch.ids >= 0).any()) or bool((batch.y >= 0).any())):
            raise AssertionError("shown whose the samples are, or what they are")
        labels = batch.y.clamp(min=0) if self._attack == "oracle" else torch.zeros_like(batch.y)
        return 9.0 * torch.nn.functional.one_hot(labels, self._setting.objective.num_outputs)

    def features(self, batch: Batch) -> torch.Tensor:
        """Show the inputs."""
        self.predict(batch)
        return batch.x.flatten(1)[:, :2]
