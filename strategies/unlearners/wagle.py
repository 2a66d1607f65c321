"""WAGLE: run another unlearner, and let only those weights move that matter to the forget set, and not to the rest."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting
from strategies.parts.weights.fisher import loss_gradient
from strategies.parts.weights.ranks import largest
from strategies.ranges import linear, log
from strategies.unlearners._following import Following
from streams.config import Config as BaseConfig
from streams.config import Named, NameOrOptions
from streams.errors import ConfigError
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `wagle` (Jia et al. 2024, arXiv 2410.17509)."""

    method: NameOrOptions = Named(name="graddiff")
    """The unlearner that is run."""
    share: float = Field(0.95, gt=0, le=1)
    """Share of the weights that may move (published: 0.95 on TOFU, 0.8 with refusals, 0.4 to 0.6 on WMDP). 1 is the
    method itself."""
    gamma: float | None = Field(1e-3, gt=0)
    """The retained loss's curvature, one number in place of its Hessian: the smaller, the more its gradient decides.
    The authors' configurations have 1e-6. null leaves it out (SNIP's score), and reads no retained data for it."""


def attributions(
    parameters: torch.Tensor, forget: torch.Tensor, retained: torch.Tensor | None, gamma: float | None
) -> torch.Tensor:
    """Return S = (theta - g_r / gamma) g_f of every weight, ``[P]``.

    Args:
        parameters: theta, ``[P]``.
        forget, retained: gradients of the mean losses, ``[P]``; without retained data S is theta g_f.
        gamma: see `Config`.
    """
    if retained is None or gamma is None:
        return parameters * forget
    return (parameters - retained / gamma) * forget


@final
class WAGLE(Following):
    """Weight attribution. The others stay to the bit: neither momentum nor weight decay moves them."""

    test_options = {"method": {"name": "graddiff", "epochs": 1}}
    config: Config
    ranges = {"share": linear(0.2, 0.95), "gamma": log(1e-6, 1.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Build the method.

        Raises:
            ConfigError: it is unknown, this one again, or builds the model anew, so that nothing is masked.
        """
        if config.method.name == "wagle":
            raise ConfigError("wagle.method: wagle cannot follow itself; choose graddiff, npo, or another.")
        super().__init__(config, setting, config.method, "wagle.method")
        self.needs_given_weights("wagle.method")

    @property
    @override
    def access(self) -> Access:
        return self.method.access | Access(forget_set=True, retained=0 if self.config.gamma is None else "full")

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Score the weights at the model as it is, then run the method on those that score high."""
        config, model, objective = self.config, learner.model, self.setting.objective
        forget_set = door.forget_set()
        retained = door.retained() if config.gamma is not None else None
        forget_gradient = loss_gradient(model, objective, forget_set) / len(forget_set)
        retained_gradient = None
        if retained is not None and len(retained):
            retained_gradient = loss_gradient(model, objective, retained) / len(retained)
        mask = largest(attributions(model.parameters, forget_gradient, retained_gradient, config.gamma), config.share)
        with model.moving_only(mask):
            outcome = self.method.forget(request, learner, door)
            model.hold()  # methods that do not train, such as dampening
        passed = len(forget_set) + (0 if retained_gradient is None or retained is None else len(retained))
        return outcome + Outcome(forward=passed, backward=passed)
