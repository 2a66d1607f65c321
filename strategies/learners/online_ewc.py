"""Online EWC: one anchor and one decayed sum of Fishers, however many experiences there are."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome
from strategies.learners._tied import Tied
from strategies.objectives._base import FisherEstimator
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.parts.weights.importance import TieConfig
from strategies.ranges import linear, log


class Config(TieConfig):
    """Options of `online-ewc` (Schwarz et al. 2018, arXiv 1805.06370)."""

    strength: float = Field(100.0, ge=0)
    """lambda in (lambda / 2) F~ (theta - theta*)^2. Its scale depends on the estimator."""
    decay: float = Field(1.0, ge=0, le=1)
    """gamma: after an experience F~ <- gamma F~ + F. 1 is a plain sum; long streams need less, or plasticity dies."""
    decay_in_penalty: bool = True
    """Whether the penalty weighs gamma F~, as in the paper, or F~ (Avalanche, Mammoth)."""
    fisher: FisherEstimator = "sampled"
    """As in `ewc`."""
    fisher_batch: int = Field(256, ge=1)
    """Samples per Fisher pass; changes the result of `batch` only."""


def accumulate(old: torch.Tensor, new: torch.Tensor, decay: float) -> torch.Tensor:
    """Return gamma F~ + F, the sums ``[P]``, with the decay gamma in [0, 1] (Schwarz et al. 2018)."""
    return decay * old + new


@final
class OnlineEWC(Tied):
    """Adds lambda gamma F~ (theta - theta*) to the gradient."""

    config: Config
    name: ClassVar[str] = "online-ewc"
    component: ClassVar[str] = "fisher"
    idle_state = {"tie/spread": "all terms have one anchor"}
    ranges = {"strength": log(1.0, 1e5), "decay": linear(0.5, 1.0)}
    becomes = {"naive": {"strength": 0.0}}

    @property
    @override
    def curvature(self) -> float:
        return self.config.strength * (self.config.decay if self.config.decay_in_penalty else 1.0)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Estimate the Fisher on the experience's training data, fold it in and move the anchor."""
        fisher, cost = diagonal_fisher(
            lesson.model,
            self.setting.objective,
            lesson.data,
            self.config.fisher,
            lesson.key / "fisher",
            self.config.fisher_batch,
        )
        total = accumulate(self._tie.weight, fisher * self._mask, self.config.decay)
        return cost + Outcome(losses=self.fold(total, lesson))
