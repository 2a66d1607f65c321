"""The one training loop. Everything that trains goes through `fit`; methods differ in what they hook into it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field

from strategies.objectives._base import Objective
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from strategies.parts.optimizers import OptimizerConfig, make_optimizer
from streams.data import Batch, Data
from streams.errors import TrainingError
from streams.randomness import Key, seeded_torch


class Training(OptimizerConfig):
    """How a model is trained on one set of data."""

    epochs: int = Field(1, ge=1)
    """Passes over the data."""
    batch_size: int = Field(64, ge=1)
    """Samples per step; a short last batch is kept."""

    def num_steps(self, samples: int) -> int:
        """Return the optimizer steps that `samples` samples take."""
        return self.epochs * math.ceil(samples / self.batch_size)


class Hooks:
    """What can be changed inside a step, by value. A hook that is not overridden is never called."""

    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch to train on, for example with replayed samples added."""
        return batch

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar loss to differentiate, given the mean loss of the batch."""
        return loss

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Return the gradient ``[P]`` to step along; it may be changed in place."""
        return gradient


def fit(
    model: FlatModel,
    objective: Objective,
    data: Data,
    training: Training,
    key: Key,
    hooks: Sequence[Hooks] = (),
) -> Outcome:
    """Train `model` on `data` with a fresh optimizer.

    Args:
        model: changed in place; left in training mode.
        objective: turns outputs into losses.
        data: what to train on; nothing to do if it is empty.
        training: epochs, batch size and optimizer.
        key: names the order of samples; epoch e is shuffled by ``key / "epoch" / e``, dropout draws from
            ``key / "noise"``.
        hooks: applied in order at each point.

    Returns:
        Steps, samples passed forward and backward, and the mean loss of the last epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    if not len(data):
        return Outcome()
    extend = [h.extend for h in hooks if type(h).extend is not Hooks.extend]
    change_loss = [h.loss for h in hooks if type(h).loss is not Hooks.loss]
    change_gradient = [h.gradient for h in hooks if type(h).gradient is not Hooks.gradient]
    optimizer = make_optimizer(training, model.parameters)
    model.train()
    step = samples = 0
    with seeded_torch(key / "noise"):
        for epoch in range(training.epochs):
            total = torch.zeros((), device=model.parameters.device)
            for positions in data.positions(key / "epoch" / epoch).split(training.batch_size):
                batch = data.batch(positions)
                for add in extend:
                    batch = add(batch, step)
                outputs = objective.outputs(model, batch)
                loss = objective.losses(outputs, batch).mean()
                for change in change_loss:
                    loss = change(loss, outputs, batch, model)
                model.gradient.zero_()
                loss.backward()  # type: ignore[no-untyped-call]
                gradient = model.gradient
                for alter in change_gradient:
                    gradient = alter(gradient, model.parameters)
                optimizer.step(model.parameters, gradient)
                total += loss.detach() * len(positions)
                samples += len(batch)
                step += 1
    mean = float(total) / len(data)
    if not math.isfinite(mean) or not math.isfinite(float(model.parameters.abs().max())):
        raise TrainingError(
            f"Training diverged: the loss of the last epoch is {mean}. Lower training.lr (now {training.lr:g}), or the "
            f"strength of a penalty: explicit steps are stable only while lr x strength x importance stays below 2."
        )
    return Outcome(steps=step, forward=samples, backward=samples, losses={"loss": mean})
