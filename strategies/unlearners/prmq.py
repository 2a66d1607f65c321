"""PRMQ: redraw all but the largest weights, train on retained data with the old model's entropy, and round."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import ClassObjective, Objective
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.weights.layers import of_layers
from strategies.parts.weights.ranks import smallest
from strategies.ranges import TRAINED, to_one
from strategies.unlearners._distil import taught
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `prmq` (an entry of the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    amount: float = Field(0.99, ge=0, le=1)
    """Share of the weights and biases of all linear and convolutional layers that is pruned, the smallest by magnitude
    over the whole network."""
    epochs: int = Field(3, ge=1)
    """Passes over the retained data."""
    part: float = Field(0.2, ge=0, lt=1)
    """Of a last pass, which goes over so large a part of it: 3.2 passes are published."""
    lr: float = Field(5e-4, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""


def class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return count^-0.1 of every class, ``[K]``, and 0 for classes without a sample.

    The released code counts through the classes that are present, so that all weights behind an absent one belong to
    another class.

    >>> class_weights(torch.tensor([2, 2, 0]), 3).tolist()
    [1.0, 0.0, 0.9330329895019531]
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    return torch.where(counts > 0, counts.clamp(min=1) ** -0.1, 0.0)


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of every sample's prediction, ``[B]``; ``logits [B, K]`` of minus infinity do not count."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p.masked_fill(log_p.isinf(), 0.0)).sum(1)


@final
class Retrain(Hooks):
    """Weighs losses by class, and adds the squared distance of entropies from the teacher's."""

    carries = ()

    def __init__(self, objective: Objective, teacher: FlatModel, weights: torch.Tensor) -> None:
        """Weigh classes by ``weights [K]``; stay as sure as `teacher`."""
        self._objective, self._teacher, self._weights = ClassObjective.of(objective), teacher, weights

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        weights = self._weights[batch.y]
        sure = entropies(taught(self._objective, self._teacher, outputs, batch))
        return losses * weights / weights.mean() + (entropies(outputs) - sure).square()


@final
class PRMQ(RetainUnlearner):
    """Keeps one weight in a hundred, and trains the network nearly anew; D_f is not looked at.

    It needs retained data: there is nothing else to train on. The teacher saw the forget set; its entropies on
    retained data alone are used, and it is dropped when the request is served.
    """

    reads_forget_set = False

    test_options = {"epochs": 1, "amount": 0.8}
    config: Config
    supports = frozenset({"classes"})
    ranges = TRAINED | {"amount": to_one(0.5, 0.997)}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        teacher = frozen_copy(self.setting, model)
        self._prune(model, key / "draw")
        hook = Retrain(objective, teacher, class_weights(retained.targets(), objective.num_outputs))
        optimizer = make_optimizer(config, model.parameters)
        outcome = fit(model, objective, retained, config, key, [hook], optimizer)
        few = retained.part(np.sort((key / "part").first(retained.ids, round(config.part * len(retained)))))
        once = config.model_copy(update={"epochs": 1})
        outcome += fit(model, objective, few, once, key / "part", [hook], optimizer)
        outcome += Outcome(forward=outcome.forward) + finish(config, learner, retained)
        for values in (model.parameters, *(b for b in model.network.buffers() if b.is_floating_point())):
            values.copy_(values.half())
        return outcome

    def _prune(self, model: FlatModel, key: Key) -> None:
        """Set the smallest weights to zero and draw them anew, uniform in +-1/sqrt(fan_in); biases stay at zero."""
        layers = of_layers(model)
        places = torch.cat([torch.arange(p.start, p.stop) for p in layers.values()]).to(model.parameters.device)
        pruned = places[smallest(model.parameters[places], self.config.amount)]
        fresh = torch.zeros_like(model.parameters)
        for name, place in layers.items():
            shape = model.network.get_parameter(name).shape
            if len(shape) > 1:
                draw = torch.rand(shape, generator=(key / name).torch()) * 2 - 1
                fresh[place] = draw.flatten().to(fresh) / math.sqrt(math.prod(shape[1:]))
        model.parameters[pruned] = fresh[pruned]
