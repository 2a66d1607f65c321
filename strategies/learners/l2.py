"""L2: keep the weights near the previous ones, or the initial (pretrained) ones, every parameter alike."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.model import FlatModel
from strategies.parts.weights.importance import Pull, TieConfig, check_stiff, make_pull
from strategies.ranges import log


class Config(TieConfig):
    """Options of `l2` (Smith et al. 2023, arXiv 2203.17269)."""

    strength: float = Field(0.1, ge=0)
    """lambda in lambda * ||theta - anchor||^2 (no factor 1/2)."""
    anchor: Literal["previous", "initial"] = "previous"
    """The weights after the previous experience, or those before the first."""
    from_start: bool = True
    """Whether the first experience is tied to the initial weights, as in the paper."""


def penalty(parameters: torch.Tensor, anchor: torch.Tensor, weight: torch.Tensor) -> float:
    """Return sum_i weight_i (theta_i - anchor_i)^2; all are ``[P]``."""
    return float((weight * (parameters - anchor).square()).sum())


@final
class L2(Plugin):
    """Adds the gradient of the tie to the anchor in closed form."""

    carries = ()
    config: Config
    ranges = {"strength": log(1e-3, 10.0)}
    becomes = {"naive": {"strength": 0.0}}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with the initial weights as anchor."""
        super().__init__(config, setting)
        check_stiff(config.stiff, setting.training, "l2")
        model = setting.make_model()
        self._anchor = model.parameters.clone()
        self._weight = config.strength * model.mask(config.parameters)
        self._active = config.from_start
        self._pull: Pull | None = None
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @override
    def begin(self, lesson: Lesson) -> None:
        if self._active:
            self._pull = make_pull(2 * self._weight, self._anchor, self.config.stiff, self.setting.training, "l2")

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add 2 lambda (theta - anchor)."""
        return gradient if self._pull is None else self._pull.add_to(gradient, parameters)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Move the anchor, if it moves; report the penalty that training ended with."""
        ended_with = penalty(lesson.model.parameters, self._anchor, self._weight) if self._active else 0.0
        clamped = 0.0 if self._pull is None else self._pull.clamped
        self._active = True
        if self.config.anchor == "previous":
            self._anchor = lesson.model.parameters.clone()
            self._derived[lesson.data.ids] = True
        return Outcome(losses={"l2_penalty": ended_with, "l2_clamped": clamped})

    @override
    def settle(self, model: FlatModel) -> None:
        """Move the anchor to the unlearned weights; otherwise the tie would pull the forgotten back."""
        if self.config.anchor == "previous":
            self._anchor = model.parameters.clone()

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"anchor": ids[self._derived[ids]]}

    @override
    def state_dict(self) -> State:
        derived = torch.from_numpy(self._derived.copy())
        return {"anchor": self._anchor.clone(), "active": self._active, "derived": derived}

    @override
    def load_state_dict(self, state: State) -> None:
        self._anchor, self._active = state["anchor"].clone(), state["active"]
        self._derived = state["derived"].numpy().copy()
