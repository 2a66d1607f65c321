"""NegGrad+: descend on retained data and ascend on the forget set, in the same step or in turns."""

from __future__ import annotations

from functools import partial
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.training.endless import Endless
from strategies.parts.training.optimizers import make_optimizer
from strategies.ranges import TRAINED, to_one
from strategies.unlearners._ascent import Ascend, AscentConfig, Brake, climb
from strategies.unlearners._retained import DefaultRetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key

_ASCENT_EPOCHS = 3


class Config(AscentConfig, DefaultRetainConfig):
    """Options of `neggrad-plus` (Kurmanji et al. 2023, arXiv 2302.09880)."""

    epochs: int = Field(5, ge=1)
    """Passes over the retained data."""
    alpha: float = Field(0.95, ge=0, le=1)
    """Weight of the retained loss; 1 - alpha weighs the forget loss. Published: 0.95 small scale, 0.9999 CIFAR-10."""
    schedule: Literal["together", "ascent-first"] = "together"
    """together: both losses in every step. ascent-first: the first `ascent_epochs` epochs begin with a pass over the
    forget set that climbs, and every epoch ends with one over the retained data that descends (the ascent-descent that
    data-unlearning-bench compares with, arXiv 2410.23232; there SGD without momentum or weight decay)."""
    ascent_epochs: int | None = Field(None, ge=1)
    """Epochs that begin with ascent, of schedule ascent-first; null means 3."""

    @model_validator(mode="after")
    def _of_one_schedule(self) -> Self:
        if self.schedule == "ascent-first" and self.alpha != type(self).model_fields["alpha"].default:
            raise ValueError(
                f"alpha: {self.alpha} weighs two losses of one step, and with schedule: ascent-first each has steps of "
                f"its own; leave it out (where options are tuned: alpha: null in its ranges)"
            )
        if self.schedule == "together" and self.ascent_epochs is not None:
            raise ValueError(
                f"ascent_epochs: {self.ascent_epochs} is for schedule: ascent-first; set that, or leave it out"
            )
        return self


@final
class Oppose(Hooks):
    """Turns the retained loss L_r into alpha L_r - (1 - alpha) L_f, with one forget batch per step."""

    carries = ("_batches",)

    def __init__(self, objective: Objective, forget_set: Data, alpha: float, size: int, key: Key, brake: Brake) -> None:
        """Prepare an endless supply of forget batches, shuffled anew in every pass; tell `brake` their loss."""
        self._objective, self._alpha, self._brake = objective.training_on(forget_set), alpha, brake
        self._batches = Endless(self._objective, forget_set, size, key)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        forget = next(self._batches)
        forget_loss = self._objective.losses(self._objective.outputs(model, forget), forget).mean()
        self._brake.forget_loss = forget_loss.detach()
        return self._alpha * loss - (1 - self._alpha) * forget_loss


@final
class NegGradPlus(RetainUnlearner):
    """Keeps the retained loss low while raising the forget loss.

    It needs retained data: every step takes a retained batch.
    """

    test_options = {"epochs": 1, "batch_size": 64}
    config: Config
    ranges = TRAINED | {"alpha": to_one(0.5, 0.9999)}
    becomes = {"finetune": {"alpha": 1.0}}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        model = learner.model
        forget_set = door.forget_set()
        brake = Brake(self.config, model)
        if self.config.schedule == "ascent-first":
            turns = partial(self._in_turns, model, forget_set, retained, brake, key)
            return climb(model, self.config, brake, request, turns) + finish(self.config, learner, retained)
        objective = self.setting.objective
        oppose = Oppose(objective, forget_set, self.config.alpha, self.config.batch_size, key, brake)

        def train() -> Outcome:
            return fit(model, objective, retained, self.config, key, [brake, oppose])

        outcome = climb(model, self.config, brake, request, train)
        forgotten = outcome.steps * min(self.config.batch_size, len(forget_set))
        outcome += Outcome(forward=forgotten, backward=forgotten) + finish(self.config, learner, retained)
        return outcome

    def _in_turns(self, model: FlatModel, forget_set: Data, retained: Data, brake: Brake, key: Key) -> Outcome:
        """Climb, then descend, epoch by epoch, with one optimizer for both."""
        config, objective = self.config, self.setting.objective
        once = config.model_copy(update={"epochs": 1})
        optimizer = make_optimizer(once, model.parameters)
        climbing = config.ascent_epochs or _ASCENT_EPOCHS
        outcome = Outcome()
        for epoch in range(1, config.epochs + 1):
            if epoch <= climbing and not brake.stopped:
                up = [brake, Ascend(brake)]
                outcome += fit(model, objective, forget_set, once, key / "up" / epoch, up, optimizer)
                if brake.diverged:
                    return outcome
            outcome += fit(model, objective, retained, once, key / "down" / epoch, (), optimizer)
        return outcome
