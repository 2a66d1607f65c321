"""Learning rates that change while a model is trained: factors of the configured rate, by step or by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from typing_extensions import override

from strategies.parts.passes import FitConfig
from strategies.parts.training.optimizers import SGD, Adam, Optimizer, make_optimizer

Factor = Callable[[int], float]
"""What a step's learning rate is multiplied by; steps count from 0."""


def triangle(epochs: int) -> list[float]:
    """Return factors that rise linearly over the first half of the epochs and fall after it, all above 0.

    >>> [round(f, 2) for f in triangle(5)]
    [0.33, 0.67, 1.0, 0.67, 0.33]
    """
    top = (epochs + 1) // 2
    return [e / top if e <= top else (epochs + 1 - e) / (epochs + 1 - top) for e in range(1, epochs + 1)]


def cosine(count: int, end: float = 0.0) -> list[float]:
    """Return factors that fall from 1 towards `end` by half a cosine, which would be reached one after the last.

    >>> [round(f, 2) for f in cosine(3)]
    [1.0, 0.75, 0.25]
    """
    return [end + (1 - end) * (1 + math.cos(math.pi * i / count)) / 2 for i in range(count)]


def by_epoch(factors: Sequence[float], steps_per_epoch: int) -> Factor:
    """Return one factor for all steps of an epoch; the last stays."""
    return lambda step: factors[min(step // steps_per_epoch, len(factors) - 1)]


def at_rates(training: FitConfig, parameters: torch.Tensor, factors: Sequence[float], samples: int) -> Scheduled:
    """Return a fresh optimizer for training on so many samples, with one factor for each epoch."""
    steps_per_epoch = training.num_steps(samples) // training.epochs
    return Scheduled(make_optimizer(training, parameters), by_epoch(factors, steps_per_epoch))


@final
class Scheduled(Optimizer):
    """Another optimizer, at a learning rate that changes with the steps it has taken."""

    def __init__(self, inner: SGD | Adam, factor: Factor) -> None:
        """Take the steps of `inner`; its configured learning rate is multiplied by the step's factor."""
        self._inner, self._config, self._factor = inner, inner.config, factor
        self._step = 0

    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        rate = self._config.lr * self._factor(self._step)
        if rate != self._inner.config.lr:
            self._inner.config = self._config.model_copy(update={"lr": rate})
        self._step += 1
        self._inner.step(parameters, gradient)

    @override
    def state_dict(self) -> dict[str, object]:
        return {"moments": self._inner.state_dict(), "step": self._step}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state["moments"])
        self._step = state["step"]
