"""MAS: ties each weight by how much the outputs react to it; labels are not needed."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome
from strategies.learners._tied import Tied
from strategies.parts.weights.fisher import output_sensitivity
from strategies.parts.weights.importance import TieConfig
from strategies.ranges import log


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
    """Return the importance ``[P]`` after an experience with importance `new`; `old` is None before the first."""
    if old is None:
        return new
    return old + new if config.accumulate == "sum" else config.alpha * old + (1 - config.alpha) * new


@final
class MAS(Tied):
    """Measures importance after each experience."""

    config: Config
    name: ClassVar[str] = "mas"
    idle_state = {"tie/spread": "all terms have one anchor"}
    ranges = {"strength": log(0.01, 100.0)}
    becomes = {"naive": {"strength": 0.0}}

    @property
    @override
    def curvature(self) -> float:
        return 2 * self.config.strength

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Measure the importance on the experience's inputs, fold it in and move the anchor."""
        importance, cost = output_sensitivity(lesson.model, self.setting.objective, lesson.data)
        total = combine(self._tie.weight if self._active else None, importance * self._mask, self.config)
        return cost + Outcome(losses=self.fold(total, lesson))
