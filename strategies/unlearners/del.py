"""DEL: reset the units that the forget set needs most, and train them and the head on the retained data."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.training.rates import at_rates, cosine
from strategies.parts.weights.fisher import loss_gradient
from strategies.parts.weights.layers import redraw
from strategies.ranges import TRAINED, linear
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `del` (deletion by example localization; Torkzadehmahani et al. 2025, TMLR)."""

    epochs: int = Field(30, ge=1)
    """Passes over the retained data; the learning rate falls by a cosine to a hundredth of itself."""
    batch_size: int = Field(128, ge=1)
    """Samples per step."""
    lr: float = Field(0.015, gt=0)
    """Learning rate of the first pass."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    share: float = Field(0.3, gt=0, le=1)
    """Share of all trained weights that is reset, in whole units."""
    top: float = Field(0.1, gt=0, le=1)
    """Share of a unit's weights whose mean score is the unit's: those with the largest."""
    top_of: Literal["unit", "layer"] = "unit"
    """What that is a share of: the unit's weights, or the number of units of its layer, as in the released code, where
    a layer of fewer than 1 / top units has no score."""
    initial: Literal["fresh", "original"] = "fresh"
    """What weights are reset to: a draw of this request's own, or what they were before anything was learned."""


def unit_scores(scores: torch.Tensor, shape: torch.Size, top: float, top_of: Literal["unit", "layer"]) -> torch.Tensor:
    """Return the score of each unit, ``[units]``: the mean of the largest scores of its weights.

    Args:
        scores: ``[n]``, of one tensor's weights.
        shape: of the tensor; its first dimension counts units, and each entry of a vector is one.
        top: share that makes the mean.
        top_of: what it is a share of; see `Config`.

    Raises:
        ConfigError: that share of the layer's units is less than one.
    """
    per_unit = scores.view(shape[0], -1)
    count = max(round(top * per_unit.shape[1]), 1)
    if top_of == "layer" and len(shape) > 1:
        count = min(int(top * shape[0]), per_unit.shape[1])
        if count < 1:
            raise ConfigError(
                f"del.top_of: layer: {top:g} of the {shape[0]} units of a layer is less than one. Set top_of: unit, "
                f"or a larger top."
            )
    return per_unit.topk(count, dim=1).values.mean(1)


def chosen_units(units: torch.Tensor, sizes: torch.Tensor, share: float) -> torch.Tensor:
    """Return which units are reset, bool ``[U]``: those of the largest scores, until `share` of all weights is reached.

    Args:
        units: scores ``[U]``.
        sizes: weights of each, int64 ``[U]``.
        share: above 0; the last unit may go beyond it.
    """
    order = units.argsort(descending=True, stable=True)
    before = sizes[order].cumsum(0) - sizes[order]
    chosen = torch.zeros(len(units), dtype=torch.bool, device=units.device)
    chosen[order[before < share * int(sizes.sum())]] = True
    return chosen


def most_needed(model: FlatModel, gradient: torch.Tensor, config: Config) -> torch.Tensor:
    """Return the weights of the units that the forget set needs most, bool ``[P]``.

    Args:
        model: whose weights they are.
        gradient: ``[P]``, of the forget loss.
        config: which share, and how units are scored.
    """
    scores = (model.parameters * gradient).abs()
    shapes = {name: p.shape for name, p in model.network.named_parameters() if name in model.slices}
    units = [unit_scores(scores[model.slices[n]], s, config.top, config.top_of) for n, s in shapes.items()]
    sizes = torch.cat([torch.full((s[0],), math.prod(s[1:]), device=scores.device) for s in shapes.values()])
    return chosen_units(torch.cat(units), sizes, config.share).repeat_interleave(sizes)


@final
class DEL(RetainUnlearner):
    """Finds the units whose weights times gradients are large on the forget set, resets them, and trains only these.

    It needs retained data: what was reset is trained on it. It reads labels of both. All other weights stay to the bit.
    """

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"classes", "numbers"})
    ranges = TRAINED | {"epochs": linear(1, 40), "batch_size": (16, 64, 128, 256), "share": linear(0.05, 0.7)}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model = self.config, learner.model
        forget_set = door.forget_set()
        mask = most_needed(model, loss_gradient(model, self.setting.objective, forget_set), config)
        start = self.setting.make_model()
        if config.initial == "fresh":
            start = redraw(start, key / "draw")
        model.parameters[mask] = start.parameters[mask]
        optimizer = at_rates(config, model.parameters, cosine(config.epochs, end=0.01), len(retained))
        with model.moving_only(mask | model.mask("head").bool()):
            outcome = fit(model, self.setting.objective, retained, config, key, optimizer=optimizer)
        cost = Outcome(forward=len(forget_set), backward=len(forget_set))
        return outcome + cost + finish(config, learner, retained)
