"""l1-sparse: fine-tune on the retained data with an l1 penalty that fades out."""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.parts.fit import Hooks, fit
from strategies.ranges import TRAINED, log
from strategies.unlearners._retained import DefaultRetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(DefaultRetainConfig):
    """Options of `l1-sparse` (Jia et al. 2023, arXiv 2304.04934)."""

    epochs: int = Field(10, ge=1)
    """E, passes over the retained data."""
    gamma: float = Field(5e-4, ge=0)
    """Weight of the sum of all absolute weights (biases and norms included) in the first epoch."""
    plain_epochs: int = Field(0, ge=0)
    """E0, final epochs without the penalty; before them it falls linearly to zero."""


def l1_weight(gamma: float, epoch: int, epochs: int, plain_epochs: int) -> float:
    """Return gamma (1 - e / (E - E0)) before the plain epochs, 0 in them.

    >>> [round(l1_weight(1.0, e, 4, 1), 3) for e in range(4)]
    [1.0, 0.667, 0.333, 0.0]
    """
    falling = epochs - plain_epochs
    return gamma * (1 - epoch / falling) if epoch < falling else 0.0


@final
class Shrink(Hooks):
    """Adds the penalty's gradient, gamma_e sign(theta)."""

    carries = ()

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        """Follow the epochs by counting steps."""
        self._config, self._steps_per_epoch = config, steps_per_epoch
        self._weight = 0.0

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        epoch = step // self._steps_per_epoch
        self._weight = l1_weight(self._config.gamma, epoch, self._config.epochs, self._config.plain_epochs)
        return batch

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient.add_(parameters.sign(), alpha=self._weight)


@final
class L1Sparse(RetainUnlearner):
    """Minimises L(D_r) + gamma_e ||theta||_1; nothing is pruned.

    It needs retained data: there is nothing else to train on.
    """

    reads_forget_set = False

    test_options = {"epochs": 1, "batch_size": 64}
    config: Config
    ranges = TRAINED | {"gamma": log(1e-6, 1e-3)}
    becomes = {"finetune": {"gamma": 0.0}}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        shrink = Shrink(self.config, math.ceil(len(retained) / self.config.batch_size))
        outcome = fit(learner.model, self.setting.objective, retained, self.config, key, [shrink])
        return outcome + finish(self.config, learner, retained)
