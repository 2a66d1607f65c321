"""Two models: the one in the state forgets, the one that answers never does."""

from __future__ import annotations

import torch

from strategies.base import Door, Outcome, Setting
from strategies.isolated.independent import Config, Independent
from strategies.parts.fit import fit
from streams.data import Batch
from streams.events import Experience

__all__ = ["Config", "TwoModels"]


class TwoModels(Independent):  # type: ignore[misc]
    """As a teacher, an index of neighbours or a mean of weights that `state_dict` and `forget` overlook."""

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self._teacher = setting.make_model()

    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train both."""
        setting = self._setting
        key = setting.key / "teacher" / experience.name / experience.incarnation
        fit(self._teacher, setting.objective, door.fetch(experience.sample_ids), setting.training, key)
        return super().learn(experience, door)

    @torch.inference_mode()
    def predict(self, batch: Batch) -> torch.Tensor:
        """Ask the wrong one."""
        self._teacher.train(False)
        return self._setting.objective.outputs(self._teacher, batch)
