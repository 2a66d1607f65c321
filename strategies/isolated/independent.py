"""One model per unit: nothing is shared, so nothing is forgotten, and deleting a unit is dropping its model."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest, Experience


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

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no model."""
        self._setting = setting
        self._models: dict[tuple[int, ...], FlatModel] = {}
        self._derived: dict[tuple[int, ...], np.ndarray] = {}
        self._blank = setting.make_model()

    @property
    def access(self) -> Access:
        """The remaining data of the units a request touches."""
        return Access(retained="full")

    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train the units' model on; it starts from the common initial weights."""
        units = experience.units
        if units not in self._models:
            self._models[units] = self._setting.make_model()
            self._derived[units] = np.zeros(self._setting.num_samples, dtype=bool)
        key = self._setting.key / "fit" / experience.name / experience.incarnation
        self._derived[units][experience.sample_ids] = True
        data = door.fetch(experience.sample_ids)
        return fit(self._models[units], self._setting.objective, data, self._setting.training, key)

    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Drop every model that saw the samples, and train it again on what its units have left."""
        touched = [u for u, derived in self._derived.items() if derived[request.sample_ids].any()]
        for units in touched:
            del self._models[units], self._derived[units]
        outcome = Outcome()
        for experience in door.history():
            if experience.units in touched:
                outcome += self.learn(experience, door)
        return outcome.graded("bits")

    @torch.inference_mode()
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return log probabilities ``[B, C]`` (with one model: its outputs)."""
        for model in (self._blank, *self._models.values()):
            model.train(False)
        if not self._models:
            return self._setting.objective.outputs(self._blank, batch)
        return self._pool(batch) if batch.task is None else self._route(batch, batch.task)

    def features(self, batch: Batch) -> None:
        """Return None: the models share no feature space."""
        return

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what each model was derived from."""
        found = {f"model-{'-'.join(map(str, u))}": ids[d[ids]] for u, d in self._derived.items()}
        return {component: held for component, held in found.items() if len(held)}

    def stored_ids(self) -> np.ndarray:
        """Keep no raw sample."""
        return np.array([], dtype=np.int64)

    def state_dict(self) -> State:
        """Return every model, under its units."""
        return {
            "models": [
                {"units": list(u), "model": m.state_dict(), "derived": torch.from_numpy(self._derived[u].copy())}
                for u, m in sorted(self._models.items())
            ]
        }

    def load_state_dict(self, state: State) -> None:
        """Put every model back."""
        self._models, self._derived = {}, {}
        for entry in state["models"]:
            units = tuple(entry["units"])
            self._models[units] = self._setting.make_model()
            self._models[units].load_state_dict(entry["model"])
            self._derived[units] = entry["derived"].numpy().copy()

    def _route(self, batch: Batch, tasks: torch.Tensor) -> torch.Tensor:
        outputs = self._setting.objective.outputs(self._blank, batch)
        for task in tasks.unique().tolist():
            models = [m for units, m in sorted(self._models.items()) if task in units]
            if models:
                rows = torch.nonzero(tasks == task).squeeze(1)
                part = Batch(batch.ids[rows], batch.x[rows], batch.y[rows], tasks[rows])
                outputs[rows] = self._mean_outputs(models, part)
        return outputs

    def _mean_outputs(self, models: list[FlatModel], batch: Batch) -> torch.Tensor:
        """Return the outputs of one model, or what several say together."""
        objective = self._setting.objective
        outputs = [objective.outputs(m, batch) for m in models]
        if len(models) == 1:
            return outputs[0]
        p = [objective.probabilities(o, batch) for o in outputs]
        known = [q for q in p if q is not None]
        return torch.stack(known).mean(0).log() if known else torch.stack(outputs).mean(0)

    def _pool(self, batch: Batch) -> torch.Tensor:
        objective = self._setting.objective
        if isinstance(objective, CausalLM):  # every model may know the answer: the mean of what they say of each token
            said = [objective.outputs(model, batch).softmax(2) for _, model in sorted(self._models.items())]
            return torch.stack(said).mean(0).log()
        total: torch.Tensor | None = None
        known: torch.Tensor | None = None
        for units, model in sorted(self._models.items()):
            outputs = objective.outputs(model, batch)
            p = objective.probabilities(outputs, batch)
            classes = sorted({c for u in units for c in self._setting.units[u].classes})
            if p is None:  # no classes to speak for: the models' mean output
                p, classes = outputs, list(range(outputs.shape[1]))
            if total is None or known is None:
                total, known = torch.zeros_like(p), torch.zeros(p.shape[1], device=p.device)
            total[:, classes] += p[:, classes]
            known[classes] += 1
        assert total is not None
        assert known is not None
        mean = total / known.clamp(min=1)
        return mean if objective.num_outputs == 1 else mean.log()
