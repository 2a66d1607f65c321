"""Quadratic ties: sum_k F_k (theta - theta_k)^2 folded into two vectors, and its gradient in a stable form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch

from strategies.parts.model import Part
from strategies.parts.training.optimizers import OptimizerConfig
from streams.config import Config
from streams.errors import ConfigError, TrainingError

Stiff = Literal["clamp", "refuse", "implicit"]


class TieConfig(Config):
    """Options of everything that ties weights to earlier ones."""

    parameters: Part = "all"
    """Tie everything; the body and leave the head free; the head; or the body's self-attention blocks."""
    stiff: Stiff = "clamp"
    """Explicit SGD is stable only while lr x curvature < 2, with the penalty's curvature per weight. What to do with
    stiffer weights. clamp: lower to lr x curvature = 1, which snaps them back to their anchor in one step (the share
    is reported as `..._clamped`). refuse: stop with a message. implicit: divide the whole gradient by
    1 + lr x curvature, the implicit step, stable at any strength (`sgd` only)."""


@final
class Tie:
    """The running form of sum_k F_k (theta - theta_k)^2: it does not grow with the number of terms.

    The sum equals W (theta - c)^2 + s with ``W = sum_k F_k``, c the F-weighted mean of the theta_k, and a constant s;
    all three are updated as a weighted mean is (Welford), which stays exact where ``W theta - sum_k F_k theta_k`` would
    cancel.
    """

    def __init__(self, like: torch.Tensor) -> None:
        """Start without any term."""
        self.weight = torch.zeros_like(like)
        self.center = torch.zeros_like(like)
        self.spread = 0.0

    def add(self, importance: torch.Tensor, theta: torch.Tensor) -> None:
        """Add a term F_k (theta - theta_k)^2."""
        total = self.weight + importance
        share = (importance / total).masked_fill_(total == 0, 1.0)
        away = theta - self.center
        self.spread += float(self.weight.mul_(share).mul_(away.square()).sum())
        self.weight = total
        moved = away.mul_(share).add_(self.center)
        self.center = torch.where(share == 1, theta, moved, out=moved)

    def anchor_at(self, theta: torch.Tensor) -> None:
        """Let every term have the same anchor."""
        self.center, self.spread = theta.clone(), 0.0

    def penalty(self, theta: torch.Tensor) -> float:
        """Return sum_k F_k (theta - theta_k)^2, summed over parameters."""
        return float((theta - self.center).square_().mul_(self.weight).sum()) + self.spread

    def state_dict(self) -> dict[str, object]:
        """Return the running form, copied."""
        return {"weight": self.weight.clone(), "center": self.center.clone(), "spread": self.spread}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Put the running form back."""
        weight, center, spread = state["weight"], state["center"], state["spread"]
        assert isinstance(weight, torch.Tensor)
        assert isinstance(center, torch.Tensor)
        assert isinstance(spread, float)
        self.weight, self.center, self.spread = weight.clone(), center.clone(), spread


@dataclass(frozen=True, slots=True, eq=False)
class Pull:
    """A tie's gradient for the steps of one experience.

    Attributes:
        curvature: second derivative of the penalty, ``[P]``.
        center: where the gradient is zero, ``[P]``.
        divisor: of the whole gradient, for implicit steps.
        clamped: share of the weights whose curvature was lowered.
    """

    curvature: torch.Tensor
    center: torch.Tensor
    divisor: torch.Tensor | None = None
    clamped: float = 0.0

    def add_to(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Return the gradient with the penalty's added, in place."""
        gradient.addcmul_(self.curvature, parameters - self.center)
        return gradient if self.divisor is None else gradient.div_(self.divisor)


def make_pull(
    curvature: torch.Tensor, center: torch.Tensor, stiff: Stiff, training: OptimizerConfig, name: str
) -> Pull:
    """Return the gradient of a penalty, made safe for explicit steps.

    Args:
        curvature: second derivative of the penalty per weight, such as lambda sum_k F_k, ``[P]``.
        center: where the gradient is zero, ``[P]``.
        stiff: what to do where lr x curvature >= 2 (see `TieConfig`).
        training: gives the learning rate and the optimizer; only `sgd` has the limit.
        name: of the plugin, for the message.

    Raises:
        TrainingError: a weight is too stiff and that is to be refused.
    """
    if training.optimizer != "sgd":
        return Pull(curvature, center)
    if stiff == "implicit":
        return Pull(curvature, center, 1 + training.lr * curvature.clamp(min=0))
    too_stiff = training.lr * curvature >= 2
    if not bool(too_stiff.any()):
        return Pull(curvature, center)
    if stiff == "refuse":
        raise TrainingError(
            f"{name}.strength: lr x curvature of the penalty is {training.lr * float(curvature.max()):.3g} on the "
            f"stiffest weight; explicit steps need less than 2. Lower {name}.strength or training.lr (now "
            f"{training.lr:g}), or set {name}.stiff: clamp or implicit."
        )
    lowered = torch.where(too_stiff, 1 / training.lr, curvature)
    return Pull(lowered, center, clamped=float(too_stiff.float().mean()))


def check_stiff(stiff: Stiff, training: OptimizerConfig, name: str) -> None:
    """Refuse implicit steps where they are not defined.

    Raises:
        ConfigError: the optimizer is not `sgd`.
    """
    if stiff == "implicit" and training.optimizer != "sgd":
        raise ConfigError(f"{name}.stiff: implicit steps are defined for training.optimizer: sgd only. Choose clamp.")
