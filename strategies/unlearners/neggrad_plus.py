"""NegGrad+: descend on retained data and ascend on the forget set in the same step."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.objectives._base import Objective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.unlearners._retained import RetainedData, endless, retained_access, retained_data
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(FitConfig):
    """Options of `neggrad-plus` (Kurmanji et al. 2023, arXiv 2302.09880)."""

    epochs: int = Field(5, ge=1)
    """Passes over the retained data."""
    batch_size: int = Field(256, ge=1)
    """Samples per step, of each kind."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    alpha: float = Field(0.95, ge=0, le=1)
    """Weight of the retained loss; 1 - alpha weighs the forget loss. Published: 0.95 small scale, 0.9999 CIFAR-10."""
    retained: RetainedData = "full"
    """Descend on all live data, or on what the learner's plugins keep (a replay memory)."""


@final
class Oppose(Hooks):
    """Turns the retained loss L_r into alpha L_r - (1 - alpha) L_f, with one forget batch per step."""

    def __init__(self, objective: Objective, forget_set: Data, alpha: float, size: int, key: Key) -> None:
        """Prepare an endless supply of forget batches, shuffled anew in every pass."""
        self._objective, self._alpha = objective.training_on(forget_set), alpha
        self._batches = endless(forget_set, size, key / "forget-epoch")

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the combined loss."""
        forget = next(self._batches)
        forget_loss = self._objective.losses(self._objective.outputs(model, forget), forget).mean()
        return self._alpha * loss - (1 - self._alpha) * forget_loss


@final
class NegGradPlus(Unlearner):
    """Keeps the retained loss low while raising the forget loss."""

    config: Config

    @property
    def access(self) -> Access:
        """The forget set with labels, and retained data."""
        return retained_access(self.config.retained, forget_set=True)

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Descend and ascend."""
        data = retained_data(self.config.retained, learner, door)
        key = self.setting.key / "neggrad-plus" / request.name
        forget_set = door.forget_set()
        objective = self.setting.objective.forgetting()
        hook = Oppose(objective, forget_set, self.config.alpha, self.config.batch_size, key)
        outcome = fit(learner.model, objective, data, self.config, key, [hook])
        forgotten = outcome.steps * min(self.config.batch_size, len(forget_set))
        return (outcome + Outcome(forward=forgotten, backward=forgotten)).graded("none")
