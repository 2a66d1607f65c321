"""Original: the model as it was before the domains came, frozen, and what it had learned by then."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.base import Setting, State
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy


@final
class Original:
    """A copy of the model that never changes, except that an unlearned model replaces one that had seen the deleted."""

    def __init__(self, setting: Setting) -> None:
        """Start without one."""
        self._setting = setting
        self._model: FlatModel | None = None
        self._seen = np.zeros(setting.num_samples, dtype=bool)  # what the live model was ever trained on
        self._derived = np.zeros(setting.num_samples, dtype=bool)  # what the original was
        self._touched = False

    @property
    def there(self) -> bool:
        """Whether the original was taken."""
        return self._model is not None

    @property
    def model(self) -> FlatModel:
        """The original, in evaluation mode; never to be changed."""
        assert self._model is not None
        return self._model

    def take(self, model: FlatModel) -> None:
        """Keep the model as it is."""
        self._model = frozen_copy(self._setting, model)
        self._derived = self._seen.copy()

    def saw(self, ids: np.ndarray) -> None:
        """Take note that the live model was trained on samples."""
        self._seen[ids] = True

    def innocent_of(self, ids: np.ndarray) -> FlatModel:
        """Return the youngest model that is kept and never saw any of `ids`: the original, or that of the start."""
        if self._model is not None and not self._derived[ids].any():
            return self._model
        model = self._setting.make_model()
        model.train(False)
        return model

    def purge(self, ids: np.ndarray) -> None:
        """Take note if the original has seen samples that must go."""
        self._touched |= self.there and bool(self._derived[ids].any())

    def settle(self, model: FlatModel) -> None:
        """Put the unlearned model in the place of an original that has seen what it forgot; keep any other."""
        if self._touched:
            self.take(model)
            self._touched = False

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Return those of `ids` that the original was derived from."""
        return ids[self._derived[ids]]

    def state_dict(self) -> State:
        """Return the original's weights, and the record of what was seen."""
        return {
            "model": None if self._model is None else self._model.state_dict(),
            "touched": self._touched,
            "derived": {
                "seen": torch.from_numpy(self._seen.copy()),
                "original": torch.from_numpy(self._derived.copy()),
            },
        }

    def load_state_dict(self, state: State) -> None:
        """Put weights and record back."""
        self._model = None
        if state["model"] is not None:
            self._model = self._setting.make_model()
            self._model.load_state_dict(state["model"])
            self._model.train(False)
        self._touched = state["touched"]
        self._seen = state["derived"]["seen"].numpy().copy()
        self._derived = state["derived"]["original"].numpy().copy()
