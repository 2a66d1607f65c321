"""SCRUB: a student that leaves its teacher on the forget set and stays with it on retained data."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import ClassObjective, Objective
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.divergence import softened_kl
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import LR, linear, log
from strategies.unlearners._ascent import AscentConfig, Brake, climb
from strategies.unlearners._distil import taught
from strategies.unlearners._retained import DefaultRetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(AscentConfig, DefaultRetainConfig):
    """Options of `scrub` (Kurmanji et al. 2023, arXiv 2302.09880); defaults of its large CIFAR-10 runs."""

    epochs: int = Field(3, ge=1)
    """E; an epoch is a pass over the forget set (in the first ones) and one over the retained data, always."""
    max_epochs: int = Field(2, ge=0)
    """msteps: epochs with a pass over the forget set. At first student and teacher agree, and the gradient of their
    divergence is zero: the first such pass moves nothing but what batch norms and weight decay do."""
    lr: float = Field(5e-4, gt=0)
    """Learning rate."""
    batch_size: int = Field(128, ge=1)
    """Retained samples per step."""
    forget_batch_size: int = Field(512, ge=1)
    """Forget samples per step."""
    temperature: float = Field(4.0, gt=0)
    """T, which softens teacher and student."""
    alpha: float = Field(0.001, ge=0)
    """Weight of the divergence on retained data."""
    gamma: float = Field(0.99, ge=0)
    """Weight of the loss on retained data."""
    decay_epochs: tuple[int, ...] = (3, 5, 9)
    """After these epochs (counted from 1) the learning rate is divided by 10."""
    rewind: float = Field(0.0, ge=0, lt=1)
    """SCRUB+R: that share of the retained samples of the forget set's classes is set aside, and the epoch is taken
    whose forget error is closest to the final error on those. With 0, or where nothing is left of the classes, the last
    epoch is taken."""


@final
class Away(Hooks):
    """Climbs the divergence from the teacher."""

    carries = ()

    def __init__(self, objective: Objective, teacher: FlatModel, temperature: float, brake: Brake) -> None:
        """Leave `teacher`; tell `brake` the loss."""
        self._objective = ClassObjective.of(objective)
        self._teacher, self._temperature, self._brake = teacher, temperature, brake

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        self._brake.forget_loss = losses.detach().mean()
        return -softened_kl(outputs, taught(self._objective, self._teacher, outputs, batch), self._temperature)


@final
class Near(Hooks):
    """gamma x loss + alpha x divergence from the teacher."""

    carries = ()

    def __init__(self, objective: Objective, teacher: FlatModel, config: Config) -> None:
        """Stay with `teacher`."""
        self._objective, self._teacher, self._config = ClassObjective.of(objective), teacher, config

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        near = softened_kl(outputs, taught(self._objective, self._teacher, outputs, batch), self._config.temperature)
        return self._config.gamma * losses + self._config.alpha * near


def set_aside(retained: Data, forget_set: Data, share: float, key: Key) -> tuple[Data, Data]:
    """Return the retained data without, and a share of it with, samples of the forget set's classes."""
    classes = forget_set.targets().unique()
    of_forgotten_classes = torch.isin(retained.targets(), classes).cpu().numpy()
    positions = np.flatnonzero(of_forgotten_classes)
    count = round(share * len(positions))
    chosen = np.sort(positions[key.order(retained.ids[positions])[:count]])
    remaining = np.setdiff1d(np.arange(len(retained)), chosen)
    return retained.part(remaining), retained.part(chosen)


@final
class SCRUB(RetainUnlearner):
    """Alternates ascent on the forget set with descent on retained data; the teacher is the model as it was.

    It needs retained data: it ends on a pass over retained data. It reads the inputs of the forget set, and retained
    data with labels.
    """

    test_options = {"epochs": 2, "max_epochs": 1, "rewind": 0.2, "decay_epochs": [1]}
    config: Config
    supports = frozenset({"classes"})
    ranges = {
        "lr": LR,
        "epochs": linear(1, 10),
        "max_epochs": linear(1, 5),
        "temperature": linear(1.0, 5.0),
        "alpha": log(1e-3, 1.0),
        "gamma": linear(0.0, 1.0),
    }

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        """Go through the epochs; the teacher is dropped at the end."""
        config, model = self.config, learner.model
        forget_set = door.forget_set()
        held_out = retained.part(np.array([], dtype=np.int64))
        if config.rewind:
            retained, held_out = set_aside(retained, forget_set, config.rewind, key / "aside")
        teacher = frozen_copy(self.setting, model)
        brake = Brake(config, model)

        def train() -> Outcome:
            return self._epochs(model, teacher, forget_set, retained, held_out, brake, key)

        outcome = climb(model, config, brake, request, train)
        divergence = self._divergence(model, teacher, forget_set)
        outcome += Outcome(forward=2 * len(forget_set), losses={"forget_divergence": divergence})
        return outcome + finish(config, learner, retained)

    def _epochs(
        self,
        model: FlatModel,
        teacher: FlatModel,
        forget_set: Data,
        retained: Data,
        held_out: Data,
        brake: Brake,
        key: Key,
    ) -> Outcome:
        config, objective = self.config, self.setting.objective
        low = config.model_copy(update={"epochs": 1})
        high = low.model_copy(update={"batch_size": config.forget_batch_size})
        optimizer = make_optimizer(low, model.parameters)
        climb_hooks: list[Hooks] = [brake, Away(objective, teacher, config.temperature, brake)]
        outcome, checkpoints = Outcome(), []
        for epoch in range(1, config.epochs + 1):
            if epoch <= config.max_epochs and not brake.stopped:
                part = fit(model, objective, forget_set, high, key / "max" / epoch, climb_hooks, optimizer)
                outcome += part + Outcome(forward=part.forward)
                if brake.diverged:
                    return outcome
            near = Near(objective, teacher, config)
            part = fit(model, objective, retained, low, key / "min" / epoch, [near], optimizer)
            outcome += part + Outcome(forward=part.forward)
            if len(held_out):
                checkpoints.append((self._error(model, forget_set), model.state_dict()))
                outcome += Outcome(forward=len(forget_set))
            if epoch in config.decay_epochs:
                state = optimizer.state_dict()
                low, high = (c.model_copy(update={"lr": c.lr / 10}) for c in (low, high))
                optimizer = make_optimizer(low, model.parameters)
                optimizer.load_state_dict(state)
        if checkpoints:
            target = self._error(model, held_out)
            model.load_state_dict(min(checkpoints, key=lambda pair: abs(pair[0] - target))[1])
        return outcome

    def _error(self, model: FlatModel, data: Data) -> float:
        objective, right = self.setting.objective, 0.0
        with evaluating(model), torch.no_grad():
            for batch in objective.batches(data, self.config.forget_batch_size):
                right += float(objective.scores(objective.outputs(model, batch), batch).sum())
        return 1 - right / len(data)

    def _divergence(self, model: FlatModel, teacher: FlatModel, data: Data) -> float:
        objective, total = ClassObjective.of(self.setting.objective), 0.0
        with evaluating(model), torch.no_grad():
            for batch in objective.batches(data, self.config.forget_batch_size):
                outputs = objective.outputs(model, batch)
                taught_outputs = taught(objective, teacher, outputs, batch)
                total += float(softened_kl(outputs, taught_outputs, self.config.temperature).sum())
        return total / len(data)
