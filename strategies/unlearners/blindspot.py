"""Blindspot (regression): follow a partly trained proxy on the forget set, and the targets elsewhere."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.weights.layers import redraw
from strategies.ranges import LR, linear, log
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish, members
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `blindspot` (Tarun et al. 2023, arXiv 2210.08196); defaults of its AgeDB runs."""

    epochs: int = Field(1, ge=1)
    """Passes over forget set and retained data together."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate."""
    proxy: FitConfig = FitConfig(optimizer="adam", lr=0.01, epochs=2)
    """How the proxy is trained on the retained data, from random weights: too shortly to know it well."""
    attention: float = Field(50.0, ge=0)
    """Weight of the distance between the attention maps of student and proxy."""


def attention_map(activation: torch.Tensor) -> torch.Tensor:
    """Return the channel mean of squared activations, flattened and of norm 1 per sample, ``[B, positions]``.

    For activations ``[B, F]`` without positions every feature is a position.
    """
    squared = activation.square()
    positions = squared.mean(1) if activation.ndim > 2 else squared
    return nn.functional.normalize(positions.flatten(1), dim=1)


@final
class Maps:
    """The attention maps of a body's convolutional and linear layers in the latest forward pass."""

    def __init__(self, model: FlatModel) -> None:
        """Listen."""
        kinds = nn.Linear | nn.modules.conv._ConvNd
        self._seen: list[torch.Tensor] = []
        layers = [m for m in model.network.body.modules() if isinstance(m, kinds)]
        self._handles = [m.register_forward_hook(self._keep) for m in layers]

    def take(self) -> list[torch.Tensor]:
        """Return the maps, layer by layer, and let go of them."""
        maps, self._seen = self._seen, []
        return maps

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, args: object, output: torch.Tensor) -> None:
        self._seen.append(attention_map(output))


@final
class FollowProxy(Hooks):
    """|f(x) - B(x)| + attention x sum over layers of mean (AT_f - AT_B)^2 on the forget set, |f(x) - y| elsewhere.

    The mean over a batch is then rho times the one plus (1 - rho) times the other, rho being the forget set's share.
    """

    carries = ()

    def __init__(
        self, model: FlatModel, proxy: FlatModel, objective: Objective, is_forget: torch.Tensor, weight: float
    ) -> None:
        """Follow `proxy` where `is_forget` (a bool column ``[N]``)."""
        self._proxy, self._objective, self._is_forget, self._weight = proxy, objective, is_forget, weight
        self._mine, self._its = Maps(model), Maps(proxy)

    def close(self) -> None:
        """Stop listening to both networks."""
        self._mine.close()
        self._its.close()

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        model_maps = self._mine.take()
        with torch.no_grad():
            proxied = self._objective.outputs(self._proxy, batch)
        proxy_maps = self._its.take()
        plain = -self._objective.scores(outputs, batch)
        apart = sum(
            ((a - b).square().mean(1) for a, b in zip(model_maps, proxy_maps, strict=True)),
            torch.zeros(len(batch), device=plain.device),
        )
        followed = (outputs - proxied).abs().squeeze(1) + self._weight * apart
        return torch.where(self._is_forget[batch.ids], followed, plain)


@final
class Blindspot(RetainUnlearner):
    """Teaches the forget set as a model sees it that has hardly learned and never saw it.

    It needs retained data: the proxy is trained on it. It reads the inputs of the forget set, and retained data with
    targets.
    """

    test_options = {"proxy": {"epochs": 1}}
    config: Config
    supports = frozenset({"numbers"})
    ranges = {"lr": LR, "epochs": linear(1, 10), "attention": log(1.0, 500.0)}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        """Train the proxy, then the model; the proxy is dropped at the end."""
        config, model, setting = self.config, learner.model, self.setting
        forget_set = door.forget_set()
        proxy = redraw(setting.make_model(), key / "proxy" / "init")
        outcome = fit(proxy, setting.objective, retained, config.proxy, key / "proxy")
        proxy.train(False)
        is_forget = members(forget_set.ids, setting.num_samples, model.parameters.device)
        follow = FollowProxy(model, proxy, setting.objective, is_forget, config.attention)
        try:
            trained = fit(model, setting.objective, retained.joined(forget_set), config, key, [follow])
        finally:
            follow.close()
        outcome += trained + Outcome(forward=trained.forward) + finish(config, learner, retained)
        return outcome
