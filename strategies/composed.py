"""Composed: a learner and an unlearner, the usual way to make a strategy."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, State, Strategy, Unlearner
from strategies.parts.model import FlatModel
from streams.data import Batch
from streams.errors import LifelongError, TrainingError
from streams.events import DeletionRequest, Experience


@final
class Composed(Strategy):
    """Learns with a learner, forgets with an unlearner."""

    def __init__(self, learner: Learner, unlearner: Unlearner) -> None:
        """Put both together."""
        self.learner = learner
        self.unlearner = unlearner

    @property
    @override
    def access(self) -> Access:
        return self.learner.access | self.unlearner.access

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        return self.learner.learn(experience, door)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Clean the learner's own state, let the unlearner act, and settle on weights that it has changed.

        Raises:
            LifelongError: the unlearner failed, or left weights that are not finite. The model is then as it was before
                the request; what the plugins kept of its samples is gone.
        """
        self.learner.purge(request)
        state = self.learner.model.state_dict()
        before = state["parameters"]
        assert isinstance(before, torch.Tensor)
        try:
            outcome = self.unlearner.forget(request, self.learner, door)
            if not bool(self.learner.model.parameters.isfinite().all()):
                raise TrainingError(
                    f"{request.name}: the unlearner left weights that are not finite. Lower its lr, epochs or "
                    f"strength, or give it a stopping rule if it has one; `lifelong show unlearners NAME` lists its "
                    f"options. The model is as it was before the request."
                )
        except LifelongError:
            self.learner.model.load_state_dict(state)
            raise
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{type(self.unlearner).__name__}.forget must return an Outcome; it returned {outcome!r}.")
        # An exact unlearner rebuilds the learner's whole state; anchors are where they belong already.
        if outcome.exactness == "none" and not torch.equal(before, self.learner.model.parameters):
            self.learner.settle()
        return outcome

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        self.learner.model.train(False)
        return self.learner.setting.objective.outputs(self.learner.model, batch)

    @torch.inference_mode()
    @override
    def features(self, batch: Batch) -> torch.Tensor:
        self.learner.model.train(False)
        return self.learner.setting.objective.features(self.learner.model, batch)

    @override
    def network(self) -> FlatModel:
        copy = self.learner.setting.make_model()
        copy.load_state_dict(self.learner.model.state_dict())
        return copy

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the learner's state holds; unlearners keep nothing between requests."""
        return self.learner.holds(ids)

    @override
    def stored_ids(self) -> np.ndarray:
        return self.learner.stored_ids()

    @override
    def state_dict(self) -> State:
        return self.learner.state_dict()

    @override
    def load_state_dict(self, state: State) -> None:
        self.learner.load_state_dict(state)

    @override
    def restore(self, door: Door) -> None:
        self.learner.restore(door)
