"""SFR-on: climb on the forget set where it matters more than the rest does; descend on retained data in between."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.parts.model import FlatModel
from strategies.parts.passes import StepConfig, passes
from strategies.parts.training.endless import Endless
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.training.rates import Scheduled, cosine
from strategies.parts.weights.fisher import diagonal_fisher, gradient_of
from strategies.ranges import LR, linear, log
from strategies.unlearners._retained import RetainedData, RetainUnlearner
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key

LEAST_LOSS = 1e-4
"""Losses of memorised samples count as this where they are divided by."""


class Config(StepConfig):
    """Options of `sfron` (Huang et al. 2024, arXiv 2409.19732); defaults of its CIFAR-10 runs."""

    steps: int = Field(1500, ge=1)
    """Steps on retained data; learning rate and `alpha` fall by half a cosine over them."""
    batch_size: int = Field(128, ge=1)
    """Samples per step, on either side."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the first step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    forget_every: int = Field(5, ge=1)
    """Before every so many steps on retained data there is one up the loss of the forget set."""
    alpha: float = Field(25.0, ge=0)
    """Weight of the forget loss."""
    adapt: float = Field(0.5, ge=0, le=1)
    """lambda: a forgotten sample of loss l weighs l^-lambda, relative to its batch; 0 weighs all alike."""
    gamma: float = Field(1.0, ge=0)
    """Weights move up where their Fisher information on the forget set is at least so many times that on retained data;
    0 lets all move."""
    forget_clip: float = Field(7.0, gt=0)
    """Longest gradient of a step up."""
    estimator: Literal["per-sample", "batch"] = "per-sample"
    """Fisher information from gradients of samples, or of batch means, as in the released code."""
    momenta: Literal["separate", "shared"] = "separate"
    """shared: one optimizer takes both kinds of steps, as in the released code; then momentum and weight decay move
    weights outside the mask in a step up, too."""
    retained: RetainedData = "full"
    """Use all live data, what the learner's plugins keep, or what its selection drew last."""


def adaptive(losses: torch.Tensor, power: float) -> torch.Tensor:
    """Return weights ``[B]`` of mean 1, in proportion to losses ``[B]`` (at least 1e-4) to the power of `-power`."""
    weights = losses.detach().clamp(min=LEAST_LOSS) ** -power
    return weights / weights.mean()


def matters_more(forgotten: torch.Tensor, retained: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return where one Fisher information ``[P]`` is at least gamma times the other, bool ``[P]``."""
    tiny = 1e-15  # what matters to neither has a ratio of 1
    return (forgotten + tiny) / (retained + tiny) >= gamma


@final
class SFRon(RetainUnlearner):
    """Saliency forgetting in the remain-preserving manifold, online: both kinds of steps alternate.

    It needs retained data: most steps are on it. It reads labels of both.
    """

    test_options = {"steps": 6, "forget_every": 2, "alpha": 0.5, "batch_size": 32}
    config: Config
    supports = frozenset({"classes", "numbers"})
    ranges = {
        "lr": LR,
        "alpha": log(1.0, 500.0),
        "forget_every": (1, 5),
        "adapt": linear(0.0, 1.0),
        "gamma": linear(0.5, 5.0),
    }

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model = self.config, learner.model
        forget_set = door.forget_set()
        of_forgotten, cost = self._fisher(model, forget_set, key / "fisher" / "forget")
        of_retained, more = self._fisher(model, retained, key / "fisher" / "retained")
        mask = matters_more(of_forgotten, of_retained, config.gamma)
        climbed, kept = (self.setting.objective.training_on(data) for data in (forget_set, retained))
        forgotten = Endless(climbed, forget_set, config.batch_size, key / "forgotten")
        others = Endless(kept, retained, config.batch_size, key / "retained")
        factors = cosine(config.steps)
        down = Scheduled(make_optimizer(config, model.parameters), lambda _: factors[steps.number])
        up = down
        if config.momenta == "separate":
            bare = config.model_copy(update={"weight_decay": 0.0})
            up = Scheduled(make_optimizer(bare, model.parameters), lambda _: factors[steps.number])

        def loss_of(size: int) -> torch.Tensor:
            few = retained.batch(retained.positions()[:size])
            return kept.losses(kept.outputs(model, few), few).mean()

        with passes(model, config, key / "noise", loss_of, [up, down, forgotten, others]) as steps:
            for number in steps.up_to(config.steps):
                if number % config.forget_every == 0:
                    batch = next(forgotten)
                    losses = climbed.losses(climbed.outputs(model, batch), batch)
                    weighted = (adaptive(losses, config.adapt) * losses).mean()
                    slope = gradient_of(model, -config.alpha * factors[number] * weighted).mul_(mask)
                    up.step(model.parameters, slope.mul_((config.forget_clip / (slope.norm() + 1e-6)).clamp(max=1)))
                    steps.samples += len(batch)
                batch = next(others)
                loss = kept.losses(kept.outputs(model, batch), batch).mean()
                down.step(model.parameters, steps.clip(gradient_of(model, loss)))
                model.hold()
                steps.samples += len(batch)
                steps.done(loss)
        return cost + more + steps.outcome(model.parameters)

    def _fisher(self, model: FlatModel, data: Data, key: Key) -> tuple[torch.Tensor, Outcome]:
        estimator: Literal["batch", "empirical"] = "batch" if self.config.estimator == "batch" else "empirical"
        return diagonal_fisher(model, self.setting.objective, data, estimator, key, self.config.batch_size)
