"""SalUn: random labels, but only the weights that matter most to the forget set move."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective
from strategies.parts.fit import Hooks, Slopes
from strategies.parts.model import FlatModel
from strategies.parts.weights.fisher import loss_gradient
from strategies.parts.weights.ranks import kth_smallest, largest
from strategies.ranges import TRAINED, linear
from strategies.unlearners._relabel import RelabelConfig, relabel, steps_per_epoch
from strategies.unlearners._retained import RetainUnlearner
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RelabelConfig):
    """Options of `salun` (Fan et al. 2024, arXiv 2310.12508); defaults of its CIFAR-10 runs."""

    share: float = Field(0.5, gt=0, le=1)
    """s, the share of weights that may move; soft: 1 - s is the share that is put back after the first step."""
    form: Literal["masked", "soft"] = "masked"
    """masked: weights of low saliency stay at their value. soft: no mask; after every step theta - theta_o is
    soft-thresholded so that a share of weights, falling linearly to none, is back at its value (an l1 penalty on the
    change)."""
    leaky_mask: bool = False
    """Mask the gradient alone, as all published code did until February 2026: momentum and weight decay still move the
    others. For reproduction."""


def saliency(model: FlatModel, objective: Objective, forget_set: Data) -> torch.Tensor:
    """Return the summed gradient of the forget loss ``[P]`` with true labels, in evaluation mode.

    The absolute value comes after the sum, so that samples of opposite gradients have none.
    """
    return loss_gradient(model, objective, forget_set)


def pull_back(parameters: torch.Tensor, start: torch.Tensor, share: float) -> torch.Tensor:
    """Return parameters ``[P]`` soft-thresholded towards `start`; the threshold puts `share`, 0 to 1, back there."""
    count = int(share * len(parameters))
    if not count:
        return parameters
    change = parameters - start
    threshold = kth_smallest(change.abs(), count)
    return start + change.sign() * (change.abs() - threshold).clamp(min=0)


@final
class Soften(Hooks):
    """Pulls the weights back after every step (before the next), by a share that falls to none."""

    carries = ("_step",)

    def __init__(self, start: torch.Tensor, share: float, steps: int) -> None:
        """Pull towards `start`."""
        self._start, self._share, self._steps = start.clone(), share, steps
        self._step = 0

    @override
    def displace(self, parameters: torch.Tensor, slopes: Slopes) -> torch.Tensor:
        share = self._share * (self._steps - self._step) / self._steps
        self._step += 1
        return pull_back(parameters, self._start, share)


@final
class MaskGradient(Hooks):
    """Masks the gradient, and nothing else."""

    carries = ()

    def __init__(self, mask: torch.Tensor) -> None:
        """Let ``mask [P]`` through."""
        self._mask = mask

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient.mul_(self._mask)


@final
class SalUn(RetainUnlearner):
    """Relabels, and moves only salient weights.

    It needs retained data: labels are drawn from the classes that are left.
    """

    test_options = {"epochs": 1, "batch_size": 64, "order": "forget-first"}
    config: Config
    supports = frozenset({"classes", "tokens", "images"})
    ranges = TRAINED | {"share": linear(0.1, 0.9)}
    becomes = {"random-label": {"share": 1.0, "form": "masked"}}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model = self.config, learner.model
        forget_set = door.forget_set()
        if config.form == "soft":
            steps = config.epochs * steps_per_epoch(forget_set, retained, config)
            soften = Soften(model.parameters, 1 - config.share, steps)
            return relabel(learner, forget_set, retained, config, key, [soften])
        mask = largest(saliency(model, self.setting.objective, forget_set), config.share)
        cost = Outcome(forward=len(forget_set), backward=len(forget_set))
        if config.leaky_mask:
            outcome = relabel(learner, forget_set, retained, config, key, [MaskGradient(mask)])
        else:
            with model.moving_only(mask):
                outcome = relabel(learner, forget_set, retained, config, key)
        return cost + outcome
