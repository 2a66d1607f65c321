"""MAS: ties each weight by how much the outputs react to it; labels are not needed."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.fisher import output_sensitivity
from strategies.parts.importance import Pull, Tie, TieConfig, check_stiff, make_pull
from strategies.parts.model import FlatModel


class Config(TieConfig):
    """Options of `mas` (Aljundi et al. 2018, arXiv 1711.09601)."""

    strength: float = Field(1.0, ge=0)
    """lambda in lambda sum_i Omega_i (theta_i - anchor_i)^2 (no factor 1/2)."""
    accumulate: Literal["sum", "average"] = "sum"
    """sum: Omega <- Omega + Omega_t. average: Omega <- alpha Omega + (1 - alpha) Omega_t, as Avalanche does, so that
    early experiences fade geometrically."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the old importance in `average`."""


def combine(old: torch.Tensor | None, new: torch.Tensor, config: Config) -> torch.Tensor:
    """Return the importance after an experience with importance `new`."""
    if old is None:
        return new
    return old + new if config.accumulate == "sum" else config.alpha * old + (1 - config.alpha) * new


@final
class MAS(Plugin):
    """Measures importance after each experience; the penalty's gradient is added in closed form."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        check_stiff(config.stiff, setting.training, "mas")
        model = setting.make_model()
        self._mask = model.mask(config.parameters)
        self._tie = Tie(model.parameters)
        self._active = False
        self._pull: Pull | None = None
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    def begin(self, lesson: Lesson) -> None:
        """Prepare 2 lambda Omega."""
        if self._active:
            curvature = 2 * self.config.strength * self._tie.weight
            self._pull = make_pull(curvature, self._tie.center, self.config.stiff, self.setting.training, "mas")

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add 2 lambda Omega (theta - anchor)."""
        return gradient if self._pull is None else self._pull.add_to(gradient, parameters)

    def end(self, lesson: Lesson) -> Outcome:
        """Measure the importance on the experience's inputs, fold it in and move the anchor."""
        theta = lesson.model.parameters
        ended_with = self.config.strength * self._tie.penalty(theta)
        found, cost = output_sensitivity(lesson.model, self.setting.objective, lesson.data)
        self._tie.weight = combine(self._tie.weight if self._active else None, found * self._mask, self.config)
        self._tie.anchor_at(theta)
        self._active = True
        self._derived[lesson.data.ids] = True
        clamped = 0.0 if self._pull is None else self._pull.clamped
        return cost + Outcome(losses={"mas_penalty": ended_with, "mas_clamped": clamped})

    def settle(self, model: FlatModel) -> None:
        """Move the anchor to the unlearned weights; otherwise the penalty would pull the forgotten back."""
        self._tie.anchor_at(model.parameters)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose gradients are in the importance, from which they cannot be taken out, and in the anchor."""
        held = ids[self._derived[ids]]
        return {"importance": held, "anchor": held}

    def state_dict(self) -> State:
        """Return importance and anchor."""
        derived = torch.from_numpy(self._derived.copy())
        return {"tie": self._tie.state_dict(), "active": self._active, "derived": derived}

    def load_state_dict(self, state: State) -> None:
        """Put importance and anchor back."""
        self._tie.load_state_dict(state["tie"])
        self._active = state["active"]
        self._derived = state["derived"].numpy().copy()
