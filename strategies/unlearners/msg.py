"""MSG: draw the weights anew that matter to neither side (small gradients), and fine-tune the others gently."""

from __future__ import annotations

import math
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.training.rates import at_rates, triangle
from strategies.parts.weights.fisher import loss_gradient
from strategies.parts.weights.layers import convolutions, weights_of
from strategies.parts.weights.ranks import smallest
from strategies.ranges import TRAINED, linear
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `msg` (masked small gradients; from the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    epochs: int = Field(5, ge=1)
    """Passes over the retained data; the learning rate rises over the first half of them and falls over the others."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate at its highest."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    share: float = Field(0.3, ge=0, le=1)
    """Share of the weights of each layer that is drawn anew."""
    kept: float = Field(0.1, ge=0, le=1)
    """What the gradients of the other weights of these layers are multiplied by."""
    decay: Literal["all", "gradient"] = "all"
    """all: weight decay is added behind that factor, as in the released code, so that kept weights decay in full.
    gradient: it is a part of the gradient that is multiplied."""
    layers: Literal["convolutions", "weights"] = "convolutions"
    """Which layers: convolutions, as published, or linear ones too (ours), without the head."""


def kaiming(shape: torch.Size, key: Key) -> torch.Tensor:
    """Return a draw from N(0, 2 / fan_out) of the given shape, on the CPU; fan_out is outputs x kernel size."""
    sd = math.sqrt(2 / (shape[0] * math.prod(shape[2:])))
    return torch.randn(shape, generator=key.torch()) * sd


@final
class Gently(Hooks):
    """Multiplies the gradient, weight by weight."""

    carries = ()

    def __init__(self, factors: torch.Tensor, decay: float) -> None:
        """Multiply by ``factors [P]``, behind adding `decay` times the weights."""
        self._factors, self._decay = factors, decay

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        if self._decay:
            gradient.add_(parameters, alpha=self._decay)
        return gradient.mul_(self._factors)


@final
class MSG(RetainUnlearner):
    """Draws anew what neither forget set nor retained data pull at, then fine-tunes; other weights move little.

    It needs retained data: it is fine-tuned on it. It reads labels of both. Each request draws anew again: what
    erodes is to be read from the retained accuracy.
    """

    needs_convolutions = True

    test_options = {"epochs": 2}
    config: Config
    supports = frozenset({"classes", "numbers"})
    ranges = TRAINED | {"share": linear(0.05, 0.7), "kept": (0.0, 0.1, 1.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that there is a layer to draw anew.

        Raises:
            ConfigError: the model trains none.
        """
        super().__init__(config, setting)
        self._layers(setting.outline())

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        forget_set = door.forget_set()
        compared = retained.part(np.sort((key / "compared").first(retained.ids, len(forget_set))))
        gradient = loss_gradient(model, objective, compared) - loss_gradient(model, objective, forget_set)
        factors = torch.ones_like(model.parameters)
        for name, (place, shape) in self._layers(model).items():
            fresh = smallest(gradient[place], config.share)
            drawn = kaiming(shape, key / "draw" / name).flatten().to(gradient.device)
            model.parameters[place] = torch.where(fresh, drawn, model.parameters[place])
            factors[place] = torch.where(fresh, 1.0, config.kept)
        training, decay = config, 0.0
        if config.decay == "gradient":
            training, decay = config.model_copy(update={"weight_decay": 0.0}), config.weight_decay
        optimizer = at_rates(training, model.parameters, triangle(config.epochs), len(retained))
        outcome = fit(model, objective, retained, training, key, [Gently(factors, decay)], optimizer)
        passed = len(compared) + len(forget_set)
        return outcome + Outcome(forward=passed, backward=passed) + finish(config, learner, retained)

    def _layers(self, model: FlatModel) -> dict[str, tuple[slice, torch.Size]]:
        if self.config.layers == "convolutions":
            return convolutions(model, "msg", "Set msg.layers: weights to draw linear layers anew, too.")
        found = weights_of(model, (nn.Conv2d, nn.Linear))
        return {name: layer for name, layer in found.items() if not name.startswith("head")}
