"""SI: ties each weight by how much of the loss's decrease its own path accounts for, counted while training."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Setting
from strategies.learners._tied import Tied
from strategies.parts.weights.importance import TieConfig
from strategies.ranges import log


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
    """Return -g_i (theta_i' - theta_i) ``[P]``: the decrease of the task loss that weight i accounts for in a step."""
    return -gradient * change


def importance(path: torch.Tensor, moved: torch.Tensor, damping: float) -> torch.Tensor:
    """Return omega_i / (Delta_i^2 + xi) (Zenke et al. 2017, equation 5).

    Args:
        path: omega, the sum of path shares ``[P]``.
        moved: Delta, how far each weight came during the experience ``[P]``.
        damping: xi, above 0.
    """
    return path / (moved.square() + damping)


@final
class SI(Tied):
    """Sums path shares in every step; the penalty is not part of the loss that backward sees, so it is not counted."""

    carries = ("_path",)
    config: Config
    name: ClassVar[str] = "si"
    idle_state = {"tie/spread": "all terms have one anchor"}
    ranges = {"strength": log(0.01, 100.0), "damping": log(1e-3, 1.0)}
    becomes = {"naive": {"strength": 0.0}}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        self._start = self._path = torch.zeros_like(self._mask)

    @property
    @override
    def curvature(self) -> float:
        return 2 * self.config.strength

    @override
    def begin(self, lesson: Lesson) -> None:
        """Note where the path starts; a path lasts no longer than an experience."""
        self._start = lesson.model.parameters.clone()
        self._path = torch.zeros_like(self._start)
        super().begin(lesson)

    @override
    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        self._path += path_share(gradient, change)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Turn the path into importance and move the anchor."""
        moved = lesson.model.parameters - self._start
        gained = importance(self._path, moved, self.config.damping) * self._mask
        if self.config.negative == "clamp":
            gained = gained.clamp(min=0)
        return Outcome(losses=self.fold(self._tie.weight + gained, lesson))
