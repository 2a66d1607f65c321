"""First reference: the model as it was when the first request came, frozen; what later requests can be held to."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.base import Setting, State
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy


@final
class FirstReference:
    """A copy that follows the model until a request comes, and never changes after."""

    def __init__(self, setting: Setting) -> None:
        """Start with the initial weights."""
        self._setting = setting
        self._model = frozen_copy(setting, setting.make_model())
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._fixed = False

    @property
    def model(self) -> FlatModel:
        """The copy, in evaluation mode; never to be changed."""
        return self._model

    def follow(self, model: FlatModel, ids: np.ndarray) -> None:
        """Become a copy of a model that was trained on `ids`, unless there was a request."""
        if not self._fixed:
            self._model.take_over(model)
            self._derived[ids] = True

    def fix(self) -> None:
        """Stay as it is from now on."""
        self._fixed = True

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Return those of `ids` that the copy was derived from."""
        return ids[self._derived[ids]]

    def state_dict(self) -> State:
        """Return weights and record."""
        derived = torch.from_numpy(self._derived.copy())
        return {"model": self._model.state_dict(), "fixed": self._fixed, "derived": derived}

    def load_state_dict(self, state: State) -> None:
        """Put weights and record back."""
        self._model.load_state_dict(state["model"])
        self._fixed = state["fixed"]
        self._derived = state["derived"].numpy().copy()
