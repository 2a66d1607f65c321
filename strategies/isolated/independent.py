"""One model per unit: nothing is shared, so nothing is forgotten, and deleting a unit is dropping its model."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest, Experience

Units = tuple[int, ...]


class Config(BaseConfig):
    """`independent` has no options."""


@final
class Independent(Strategy):
    """Trains a model of its own for every set of units that arrives together.

    A request retrains exactly those models that saw its samples, on what is left of their experiences, and drops
    those that have nothing left. With task labels a query goes to its task's model (or models, if some of the task was
    learned again together with others: then the mean of their probabilities counts); without, each model speaks for
    the classes of its units, and a class that several know gets the mean of their probabilities.
    """

    exact = "always"
    state_grows = True

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no model."""
        self._setting = setting
        self._model = setting.make_model()
        self._loaded = self._initial = self._model.state_dict()
        # One network answers for all models. Their states are replaced and never changed: nobody has to copy them.
        self._states: dict[Units, dict[str, object]] = {}
        self._trained: dict[Units, FlatModel] = {}
        self._derived: dict[Units, np.ndarray] = {}

    @property
    @override
    def access(self) -> Access:
        """The remaining data of the units a request touches."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train the units' model on; it starts from the common initial weights."""
        units = experience.units
        key = self._setting.key / "fit" / experience.name / experience.incarnation
        derived = self._derived.get(units, np.zeros(self._setting.num_samples, dtype=bool)).copy()
        derived[experience.sample_ids] = True
        data = door.fetch(experience.sample_ids)
        model = self._setting.make_model()
        if units in self._states:
            model.load_state_dict(self._states[units])
        self._trained[units] = model
        outcome = fit(model, self._setting.objective, data, self._setting.training, key)
        del self._trained[units]
        self._states[units] = model.state_dict()
        self._derived[units] = derived
        return outcome

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Drop every model that saw the samples, and train it again on what its units have left."""
        touched = [u for u, derived in self._derived.items() if derived[request.sample_ids].any()]
        for units in touched:
            del self._states[units], self._derived[units]
        outcome = Outcome()
        for experience in door.history():
            if experience.units in touched:
                outcome += self.learn(experience, door)
        return outcome.graded("bits")

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return log probabilities ``[B, C]`` (with one model: its outputs)."""
        for model in (self._model, *self._trained.values()):
            model.train(False)
        if not self._known:
            return self._setting.objective.outputs(self._load(self._initial), batch)
        return self._pool(batch) if batch.task is None else self._route(batch, batch.task)

    @override
    def features(self, batch: Batch) -> None:
        """Return None: the models share no feature space."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component = {f"model-{'-'.join(map(str, u))}": ids[d[ids]] for u, d in self._derived.items()}
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    @override
    def state_dict(self) -> State:
        return {
            "models": [
                {"units": list(u), "model": state, "derived": torch.from_numpy(self._derived[u])}
                for u, state in sorted(self._states.items(), key=lambda item: item[0])
            ]
        }

    @override
    def load_state_dict(self, state: State) -> None:
        entries = {tuple(entry["units"]): entry for entry in state["models"]}
        self._states = {units: entry["model"] for units, entry in entries.items()}
        self._derived = {units: entry["derived"].numpy() for units, entry in entries.items()}

    @property
    def _known(self) -> list[Units]:
        return sorted({*self._states, *self._trained})

    def _model_of(self, units: Units) -> FlatModel:
        """Return a network with the weights of one model: while that is trained, as they are then."""
        return self._trained[units] if units in self._trained else self._load(self._states[units])

    def _load(self, state: dict[str, object]) -> FlatModel:
        if state is not self._loaded:
            self._model.load_state_dict(state)
            self._loaded = state
        return self._model

    def _route(self, batch: Batch, tasks: torch.Tensor) -> torch.Tensor:
        outputs = self._setting.objective.outputs(self._load(self._initial), batch)
        for task in tasks.unique().tolist():
            models = [units for units in self._known if task in units]
            if models:
                rows = torch.nonzero(tasks == task).squeeze(1)
                part = replace(batch, task=tasks).rows(rows)
                outputs_of_models = [self._setting.objective.outputs(self._model_of(u), part) for u in models]
                outputs[rows] = self._setting.objective.blend(outputs_of_models, part)
        return outputs

    def _pool(self, batch: Batch) -> torch.Tensor:
        objective = self._setting.objective
        outputs_by_units = {units: objective.outputs(self._model_of(units), batch) for units in self._known}
        if not objective.by_class:
            return objective.blend(list(outputs_by_units.values()), batch)
        total = torch.zeros(len(batch), objective.num_outputs, device=batch.x.device)
        num_models = torch.zeros(objective.num_outputs, device=batch.x.device)
        for units, outputs in outputs_by_units.items():
            p = objective.probabilities(outputs, batch)
            assert p is not None
            classes = sorted({c for u in units for c in self._setting.units[u].classes})
            total[:, classes] += p[:, classes]
            num_models[classes] += 1
        return (total / num_models.clamp(min=1)).log()
