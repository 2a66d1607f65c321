"""Composed: a learner and an unlearner, a guard or both; the usual way to make a strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Access, Door, Guard, Learner, Outcome, State, Strategy, Unlearner
from strategies.outcome import weaker
from strategies.parts.model import FlatModel, is_finite, num_bytes
from streams.data import Batch
from streams.errors import LifelongError, TrainingError
from streams.events import DeletionRequest, Experience


@final
class Composed(Strategy):
    """Learns with a learner, forgets in its weights with an unlearner, and beside them with a guard, if it has one."""

    def __init__(self, learner: Learner, unlearner: Unlearner, guard: Guard | None = None) -> None:
        """Put them together."""
        self.learner = learner
        self.unlearner = unlearner
        self.guard = guard
        self._unasked: State = {} if guard is None else guard.state_dict()
        self._is_asked = False

    @property
    @override
    def access(self) -> Access:
        both = self.learner.access | self.unlearner.access
        return both if self.guard is None else both | self.guard.access

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        if self.guard is not None:
            self.guard.relearned(experience.sample_ids)
        return self.learner.learn(experience, door)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Clean the learner's own state, let the unlearner act, then the guard, and settle on changed weights.

        Raises:
            LifelongError: one of them failed, or the unlearner left weights that are not finite. Model and guard are
                then as they were before the request; what the plugins kept of its samples is gone.
        """
        self.learner.purge(request)
        state = self.learner.model.state_dict()
        guarded = self._guard_state()
        before = state["parameters"]
        assert isinstance(before, torch.Tensor)
        try:
            outcome = self._unlearn(request, door)
            changed = not torch.equal(before, self.learner.model.parameters)
            beside = None if self.guard is None else self._put_under_guard(self.guard, request, door, state)
        except LifelongError:
            self.learner.model.load_state_dict(state)
            self._load_guard_state(guarded)
            raise
        # An exact unlearner rebuilds the learner's whole state; anchors are where they belong already.
        if outcome.exactness == "none" and changed:
            self.learner.settle()
        erased = changed or not len(self.learner.holds(request.sample_ids).get("weights", ()))
        if beside is not None:
            outcome = replace(outcome + beside, exactness=weaker(outcome.exactness, beside.exactness))
        return replace(outcome, weights_erased=erased)

    def _unlearn(self, request: DeletionRequest, door: Door) -> Outcome:
        outcome = self.unlearner.forget(request, self.learner, door)
        if not is_finite(self.learner.model.parameters):
            raise TrainingError(
                f"{request.name}: the unlearner left weights that are not finite. Lower its lr, epochs or "
                f"strength, or give it a stopping rule if it has one; `lifelong show unlearners NAME` lists its "
                f"options. The model is as it was before the request."
            )
        return _checked(outcome, self.unlearner)

    def _put_under_guard(self, guard: Guard, request: DeletionRequest, door: Door, state: State) -> Outcome:
        """Let the guard act; `state` is the model's before the request, and serves again if it still is."""
        before = state if self.learner.model.is_in_state(state) else self.learner.model.state_dict()
        outcome = guard.forget(request, self.learner, door)
        self._is_asked = True
        if not self.learner.model.is_in_state(before):
            raise TypeError(
                f"{type(guard).__name__}.forget changed the learner's weights. A guard acts beside them; what changes "
                f"them is an unlearner."
            )
        return _checked(outcome, guard)

    def _guard_state(self) -> State:
        return {} if self.guard is None or not self._is_asked else {"guard": self.guard.state_dict()}

    def _load_guard_state(self, state: State) -> None:
        if self.guard is not None:
            self.guard.load_state_dict(state.get("guard", self._unasked))
            self._is_asked = "guard" in state

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        self.learner.model.train(False)
        if self.guard is not None:
            return self.guard.predict(self.learner.model, batch)
        return self.learner.setting.objective.outputs(self.learner.model, batch)

    @torch.inference_mode()
    @override
    def features(self, batch: Batch) -> torch.Tensor:
        self.learner.model.train(False)
        if self.guard is not None:
            return self.guard.features(self.learner.model, batch)
        return self.learner.setting.objective.features(self.learner.model, batch)

    @override
    def network(self) -> FlatModel:
        """Return a copy of the bare model, without a guard: what an auditor finds who has the weights."""
        copy = self.learner.setting.make_model()
        copy.take_over(self.learner.model)
        return copy

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the learner's state holds, and what the guard does; unlearners keep nothing between requests."""
        held = self.learner.holds(ids)
        if self.guard is None:
            return held
        return held | {f"guard.{component}": some for component, some in self.guard.holds(ids).items() if len(some)}

    @override
    def stored_ids(self) -> np.ndarray:
        stored = self.learner.stored_ids()
        return stored if self.guard is None else np.union1d(stored, self.guard.stored_ids())

    @override
    def state_dict(self) -> State:
        """Return the learner's state, and the guard's from its first request on."""
        return self.learner.state_dict() | self._guard_state()

    @override
    def state_bytes(self) -> int:
        return self.learner.state_bytes() + num_bytes(self._guard_state())

    @override
    def load_state_dict(self, state: State) -> None:
        self.learner.load_state_dict({name: part for name, part in state.items() if name != "guard"})
        self._load_guard_state(state)

    @override
    def restore(self, door: Door) -> None:
        self.learner.restore(door)


def _checked(outcome: object, served_by: Unlearner | Guard) -> Outcome:
    if not isinstance(outcome, Outcome):
        raise TypeError(f"{type(served_by).__name__}.forget must return an Outcome; it returned {outcome!r}.")
    return outcome
