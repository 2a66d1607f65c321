"""SI: ties each weight by how much of the loss's decrease its own path accounts for, counted while training."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.importance import Pull, Tie, TieConfig, check_stiff, make_pull
from strategies.parts.model import FlatModel


class Config(TieConfig):
    """Options of `si` (Zenke et al. 2017, arXiv 1703.04200)."""

    strength: float = Field(1.0, ge=0)
    """c in c sum_i Omega_i (theta_i - anchor_i)^2 (no factor 1/2)."""
    damping: float = Field(0.1, gt=0)
    """xi in omega_i / (Delta_i^2 + xi). Published: 0.1, and 1e-3 for Split-MNIST."""
    negative: Literal["clamp", "keep"] = "clamp"
    """Paths that raised the loss have negative importance. clamp: count them as 0. keep: leave them, which makes the
    penalty unbounded from below along those weights."""


def path_share(gradient: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Return -g_i (theta_i' - theta_i): the decrease of the task loss that weight i accounts for in one step."""
    return -gradient * change


def importance(path: torch.Tensor, moved: torch.Tensor, damping: float) -> torch.Tensor:
    """Return omega_i / (Delta_i^2 + xi)."""
    return path / (moved.square() + damping)


@final
class SI(Plugin):
    """Sums path shares in every step; the penalty's gradient is added in closed form, so that it is not counted."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        check_stiff(config.stiff, setting.training, "si")
        model = setting.make_model()
        self._mask = model.mask(config.parameters)
        self._tie = Tie(model.parameters)
        self._start = self._path = torch.zeros_like(model.parameters)
        self._active = False
        self._pull: Pull | None = None
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    def begin(self, lesson: Lesson) -> None:
        """Note where the path starts, and prepare 2 c Omega."""
        self._start = lesson.model.parameters.clone()
        self._path = torch.zeros_like(self._start)
        if self._active:
            curvature = 2 * self.config.strength * self._tie.weight
            self._pull = make_pull(curvature, self._tie.center, self.config.stiff, self.setting.training, "si")

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add 2 c Omega (theta - anchor)."""
        return gradient if self._pull is None else self._pull.add_to(gradient, parameters)

    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        """Add the step to every weight's path."""
        self._path += path_share(gradient, change)

    def end(self, lesson: Lesson) -> Outcome:
        """Turn the path into importance and move the anchor."""
        theta = lesson.model.parameters
        ended_with = self.config.strength * self._tie.penalty(theta)
        found = importance(self._path, theta - self._start, self.config.damping) * self._mask
        self._tie.weight += found.clamp(min=0) if self.config.negative == "clamp" else found
        self._tie.anchor_at(theta)
        self._active = True
        self._derived[lesson.data.ids] = True
        clamped = 0.0 if self._pull is None else self._pull.clamped
        return Outcome(losses={"si_penalty": ended_with, "si_clamped": clamped})

    def settle(self, model: FlatModel) -> None:
        """Move the anchor to the unlearned weights; otherwise the penalty would pull the forgotten back."""
        self._tie.anchor_at(model.parameters)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose gradients are in the importance, from which they cannot be taken out, and in the anchor."""
        held = ids[self._derived[ids]]
        return {"importance": held, "anchor": held}

    def state_dict(self) -> State:
        """Return importance and anchor; a path lasts no longer than an experience."""
        derived = torch.from_numpy(self._derived.copy())
        return {"tie": self._tie.state_dict(), "active": self._active, "derived": derived}

    def load_state_dict(self, state: State) -> None:
        """Put importance and anchor back."""
        self._tie.load_state_dict(state["tie"])
        self._active = state["active"]
        self._derived = state["derived"].numpy().copy()
