"""UNSIR: learn noise that the class's model hates, teach it as the class (impair), then repair on retained data."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Scope
from strategies.objectives._base import EVALUATION, Objective
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import Adam, OptimizerConfig
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import LR, linear, log
from strategies.unlearners._classes import task_of, whole_classes
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish, some_of_each
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `unsir` (Tarun et al. 2021, arXiv 2111.08947); defaults of its CIFAR-10 notebook."""

    epochs: int = Field(1, ge=1)
    """Passes to impair, and as many to repair."""
    batch_size: int = Field(256, ge=1)
    """Samples per step, and B, the noise samples per class."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(0.02, gt=0)
    """Learning rate while impairing; later ports take 1e-4."""
    repair_lr: float = Field(0.01, gt=0)
    """Learning rate while repairing."""
    copies: int = Field(20, ge=1)
    """Copies of the noise batch in the data to impair with. Where copies x batch_size outnumber the retained subset,
    the model learns to see the class everywhere."""
    per_class: int = Field(1000, ge=1)
    """Retained samples per class, for both passes."""
    noise_steps: int = Field(40, ge=1)
    """Steps that the noise is trained (published: 5 epochs of 8, up to 250)."""
    noise_lr: float = Field(0.1, gt=0)
    """Learning rate of the noise (Adam)."""
    noise_penalty: float = Field(0.1, ge=0)
    """Weight of the noise's mean squared norm."""


def learn_noise(
    model: FlatModel, objective: Objective, noise: torch.Tensor, label: int, task: torch.Tensor | None, config: Config
) -> torch.Tensor:
    """Return noise that maximises the loss of `label`: minimises -l(f(N), c) + penalty x mean of sum N^2.

    Args:
        model: in evaluation mode, and not changed.
        objective: gives the loss.
        noise: where to start, ``[B, ...]``.
        label: c.
        task: task labels ``[B]``, or None.
        config: steps, learning rate and penalty.
    """
    flat = noise.reshape(-1).clone()
    optimizer = Adam(OptimizerConfig(lr=config.noise_lr), flat)
    rows = torch.arange(len(noise), device=noise.device)
    y = torch.full_like(rows, label)
    with evaluating(model):
        for _ in range(config.noise_steps):
            x = flat.view_as(noise).detach().requires_grad_(True)
            batch = objective.drawn(Batch(rows, x, y, task), EVALUATION)
            loss = -objective.losses(objective.outputs(model, batch), batch).mean()
            loss = loss + config.noise_penalty * x.square().flatten(1).sum(1).mean()
            (gradient,) = torch.autograd.grad(loss, x)
            optimizer.step(flat, gradient.reshape(-1))
    return flat.view_as(noise)


def with_noise(subset: Data, noises: list[torch.Tensor], labels: list[int], tasks: list[int], copies: int) -> Data:
    """Return the subset's samples and `copies` of each noise batch, with the noise labelled as its class."""
    batch = subset.all()
    device = batch.x.device
    x = torch.cat([batch.x, *[n.repeat(copies, *[1] * (n.ndim - 1)) for n in noises]])
    counts = torch.tensor([copies * len(n) for n in noises], device=device)
    y = torch.cat([batch.y, torch.tensor(labels, device=device).repeat_interleave(counts)])
    task = None
    if batch.task is not None:
        task = torch.cat([batch.task, torch.tensor(tasks, device=device).repeat_interleave(counts)])
    return Data(np.arange(len(x)), x, y, task)


@final
class UNSIR(RetainUnlearner):
    """Unlearning by selective impair and repair; defined for whole classes, whose data is not read.

    It needs retained data: impairing and repairing take retained data. It reads a labelled subset of the retained
    data; of the forget set the class alone.
    """

    reads_forget_set = False

    test_options = {"batch_size": 16, "copies": 1, "noise_steps": 2, "per_class": 10}
    config: Config
    supports = frozenset({"classes"})
    scopes: tuple[Scope, ...] = ("class", "task")
    whole_classes = True
    ranges = {
        "lr": LR,
        "repair_lr": LR,
        "copies": linear(1, 40),
        "noise_lr": log(0.01, 1.0),
        "noise_penalty": log(0.01, 1.0),
    }

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective, setting = self.config, learner.model, self.setting.objective, self.setting
        classes = whole_classes(request, setting)
        subset = some_of_each(retained, config.per_class, key / "subset")
        example = subset.batch(torch.zeros(1, dtype=torch.int64, device=model.parameters.device))
        tasks = [0] * len(classes)
        if example.task is not None:
            tasks = task_of(classes, setting, example.task).tolist()
        noises = []
        for label, task in zip(classes, tasks, strict=True):
            shape = (config.batch_size, *example.x.shape[1:])
            start = torch.randn(shape, generator=(key / "noise" / label).torch()).to(example.x)
            task_labels = None if example.task is None else torch.full_like(example.task.expand(len(start)), task)
            noises.append(learn_noise(model, objective, start, label, task_labels, config))
        passed = config.noise_steps * config.batch_size * len(classes)
        outcome = Outcome(forward=passed, backward=passed)
        impair = with_noise(subset, noises, classes, tasks, config.copies)
        outcome += fit(model, objective, impair, config, key / "impair")
        repair = config.model_copy(update={"lr": config.repair_lr})
        outcome += fit(model, objective, subset, repair, key / "repair")
        return outcome + finish(config, learner, retained)
