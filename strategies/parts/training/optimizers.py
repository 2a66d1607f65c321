"""SGD and Adam on one flat vector, with the update rules of ``torch.optim`` (which costs a second to import)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from streams.config import Config

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of a running mean."""


class OptimizerConfig(Config):
    """Which optimizer, and its options."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    """Update rule."""
    lr: float = Field(0.01, gt=0)
    """Learning rate."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty added to the gradient."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of `adam`'s moments."""
    eps: float = Field(1e-8, gt=0)
    """Term added to `adam`'s denominator."""


class Optimizer(ABC):
    """Changes a parameter vector in place by a gradient vector."""

    @abstractmethod
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        """Apply one update; `gradient` may be overwritten."""

    @abstractmethod
    def state_dict(self) -> dict[str, object]:
        """Return the moments, copied."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the moments back."""


def make_optimizer(config: OptimizerConfig, parameters: torch.Tensor) -> SGD | Adam:
    """Return a fresh optimizer for one vector."""
    return SGD(config, parameters) if config.optimizer == "sgd" else Adam(config, parameters)


# Why: docs/decisions.md#own-sgd-and-adam-on-a-flat-vector
@final
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v <- m v + g + wd p; p <- p - lr v."""

    def __init__(self, config: OptimizerConfig, parameters: torch.Tensor) -> None:
        """Start with zero momentum."""
        self.config = config
        self.velocity = torch.zeros_like(parameters) if config.momentum else None

    @torch.no_grad()
    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        if self.config.weight_decay:
            gradient.add_(parameters, alpha=self.config.weight_decay)
        if self.velocity is not None:
            gradient = self.velocity.mul_(self.config.momentum).add_(gradient)
        parameters.add_(gradient, alpha=-self.config.lr)

    @override
    def state_dict(self) -> dict[str, object]:
        return {} if self.velocity is None else {"velocity": self.velocity.clone()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.velocity is not None:
            self.velocity.copy_(state["velocity"])


@final
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with bias correction."""

    def __init__(self, config: OptimizerConfig, parameters: torch.Tensor) -> None:
        """Start with zero moments."""
        self.config = config
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters)
        self.steps = 0

    @torch.no_grad()
    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        beta_1, beta_2 = self.config.betas
        self.steps += 1
        if self.config.weight_decay:
            gradient.add_(parameters, alpha=self.config.weight_decay)
        self.first.lerp_(gradient, 1 - beta_1)
        self.second.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        scale = (1 - beta_2**self.steps) ** 0.5
        denominator = self.second.sqrt().div_(scale).add_(self.config.eps)
        parameters.addcdiv_(self.first, denominator, value=-self.config.lr / (1 - beta_1**self.steps))

    @override
    def state_dict(self) -> dict[str, object]:
        return {"first": self.first.clone(), "second": self.second.clone(), "steps": self.steps}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.steps = state["steps"]
