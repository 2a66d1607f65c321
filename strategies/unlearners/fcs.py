"""FCS: flatten the answers to the forget set, push them apart from those to retained data, and repair, in turns."""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import ClassObjective, Objective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.training.endless import Endless
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.training.rates import Scheduled, cosine
from strategies.ranges import LR, linear, log
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `fcs` (the winner of the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    epochs: int = Field(8, ge=1)
    """Rounds: a pass over the forget set, then one over the retained data."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate on retained data for batches of 64; it grows in proportion to `batch_size`."""
    weight_decay: float = Field(1e-2, ge=0)
    """L2 penalty added to the gradient on retained data; there is none on the forget set."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`: one of its own for the first pass, for the forget set, and for the retained data."""
    uniform_lr: float = Field(5e-3, gt=0)
    """Learning rate of the first pass, which makes answers to the forget set uniform."""
    forget_lr: float = Field(3e-4, gt=0)
    """Learning rate on the forget set at first; it falls by half a cosine from step to step."""
    forget_lr_end: float = Field(1e-6, ge=0)
    """What it would reach behind the last step."""
    temperature: float = Field(1.15, gt=0)
    """T, that products of answers are divided by."""


def from_uniform(logits: torch.Tensor) -> torch.Tensor:
    """Return KL(uniform || softmax) of every sample, ``[B]``.

    Args:
        logits: ``[B, K]``; outputs that are forbidden (minus infinity) do not count.
    """
    permitted = logits.isfinite()
    count = permitted.sum(1)
    return -logits.log_softmax(1).masked_fill(~permitted, 0.0).sum(1) / count - count.log()


def contrast(forgotten: torch.Tensor, retained: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean over i and j of -log softmax_j(f_i . r_j / T).

    It is least, and ln of the number of retained samples, where a forgotten sample's products with all retained ones
    are equal, as they are for f_i = 0.

    Args:
        forgotten: logits ``[F, K]``.
        retained: logits ``[R, K]``; forbidden outputs (minus infinity) of either side do not count.
        temperature: T.
    """
    f, r = (z.masked_fill(z.isinf(), 0.0) for z in (forgotten, retained))
    return -(f @ r.T / temperature).log_softmax(1).mean()


@final
class Flatten(Hooks):
    """Minimises the divergence from a uniform answer, in place of the loss."""

    carries = ()

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return from_uniform(outputs)


@final
class Contrast(Hooks):
    """Minimises the contrast of a batch with one of retained data, in place of the loss."""

    carries = ("_batches",)

    def __init__(self, objective: Objective, retained: Data, temperature: float, size: int, key: Key) -> None:
        """Prepare an endless supply of retained batches of `size`, shuffled anew in every pass."""
        self._objective, self._temperature = ClassObjective.of(objective), temperature
        self._batches = Endless(objective, retained, size, key)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        # in training mode, like the released code: batch norms see the retained batch as well
        others = self._objective.outputs(model, next(self._batches)).detach()
        return contrast(outputs, others, self._temperature)


@final
class FCS(RetainUnlearner):
    """Answers to the forget set are to say nothing about those to retained data; labels of the forget set are not read.

    It needs retained data: every round ends on a pass over it. In released code a round on the forget set ends with
    the shorter of both loaders; here it is always a whole pass.
    """

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"classes"})
    ranges = {
        "lr": LR,
        "uniform_lr": LR,
        "forget_lr": LR,
        "epochs": linear(1, 20),
        "temperature": log(0.2, 5.0),
    }

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        forget_set = door.forget_set()
        first, away, near = (
            config.model_copy(update={"epochs": 1, "lr": lr, "weight_decay": decay})
            for lr, decay in (
                (config.uniform_lr, 0.0),
                (config.forget_lr, 0.0),
                (config.lr * config.batch_size / 64, config.weight_decay),
            )
        )
        outcome = fit(model, objective, forget_set, first, key / "uniform", [Flatten()])
        apart, repair = self._falling(away, model, forget_set), make_optimizer(near, model.parameters)
        contrast_with = Contrast(objective, retained, config.temperature, config.batch_size, key / "contrast")
        for number in range(config.epochs):
            part = fit(model, objective, forget_set, away, key / "apart" / number, [contrast_with], apart)
            outcome += part + Outcome(forward=part.steps * min(config.batch_size, len(retained)))
            outcome += fit(model, objective, retained, near, key / "repair" / number, (), repair)
        return outcome + finish(config, learner, retained)

    def _falling(self, away: FitConfig, model: FlatModel, forget_set: Data) -> Scheduled:
        count = self.config.epochs * math.ceil(len(forget_set) / away.batch_size)
        factors = cosine(count, min(self.config.forget_lr_end / away.lr, 1.0))
        return Scheduled(make_optimizer(away, model.parameters), factors.__getitem__)
