"""What distillation needs: a frozen copy of the model, and what it has been taught."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.base import Setting, State
from strategies.parts.model import FlatModel
from streams.data import Data
from streams.events import DeletionRequest


def frozen_copy(setting: Setting, model: FlatModel) -> FlatModel:
    """Return a copy of the model as it is, in evaluation mode."""
    copy = setting.make_model()
    copy.take_over(model)
    copy.train(False)
    return copy


@final
class Teacher:
    """A copy of the model as it was after an earlier experience, always in evaluation mode."""

    def __init__(self, setting: Setting) -> None:
        """Start without one."""
        self._setting = setting
        self._model: FlatModel | None = None
        self._outputs = np.full(setting.num_samples, -1, dtype=np.int32)  # which output each live sample taught
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @property
    def there(self) -> bool:
        """Whether there is a teacher."""
        return self._model is not None

    @property
    def known(self) -> list[int]:
        """Outputs (classes) that a learned and not deleted sample has taught, ascending; a regressor has output 0."""
        return np.unique(self._outputs[self._outputs >= 0]).tolist()

    @property
    def model(self) -> FlatModel:
        """The copy, in evaluation mode; never to be changed."""
        assert self._model is not None, "there is no teacher yet"
        return self._model

    def start(self, model: FlatModel) -> None:
        """Become a copy of a model that has learned nothing yet."""
        self._there().take_over(model)

    def learn(self, model: FlatModel, data: Data) -> None:
        """Become a copy of `model`, which has just been trained on `data`."""
        self._there().take_over(model)
        targets = data.targets().cpu()
        self._outputs[data.ids] = 0 if targets.is_floating_point() else targets.numpy()
        self._derived[data.ids] = True

    def refresh(self, model: FlatModel) -> None:
        """Become a copy of the unlearned model, if there is a teacher."""
        if self.there:
            self._there().take_over(model)

    def purge(self, request: DeletionRequest) -> None:
        """Forget what the request's samples taught; without any sample left there is no teacher."""
        self._outputs[request.sample_ids] = -1
        if self._derived.any() and not self.known:
            self._model = None
            self._derived[:] = False

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Return those of `ids` that the teacher was derived from."""
        return ids[self._derived[ids]]

    def state_dict(self) -> State:
        """Return the teacher's weights, and the record of what it was taught."""
        return {
            "model": None if self._model is None else self._model.state_dict(),
            "derived": {
                "outputs": torch.from_numpy(self._outputs.copy()),
                "ids": torch.from_numpy(self._derived.copy()),
            },
        }

    def load_state_dict(self, state: State) -> None:
        """Put weights and record back."""
        if state["model"] is None:
            self._model = None
        else:
            self._there().load_state_dict(state["model"])
        self._outputs = state["derived"]["outputs"].numpy().copy()
        self._derived = state["derived"]["ids"].numpy().copy()

    def _there(self) -> FlatModel:
        """Return the copy, made if there is none."""
        if self._model is None:
            self._model = self._setting.make_model()
            self._model.train(False)
        return self._model
