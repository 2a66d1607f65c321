"""Online EWC: one anchor and one decayed sum of Fishers, however many experiences there are."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import FisherEstimator
from strategies.parts.fisher import diagonal_fisher
from strategies.parts.importance import Pull, Tie, TieConfig, check_stiff, make_pull
from strategies.parts.model import FlatModel


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
    """Return gamma F~ + F."""
    return decay * old + new


@final
class OnlineEWC(Plugin):
    """Adds lambda gamma F~ (theta - theta*) to the gradient."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        check_stiff(config.stiff, setting.training, "online-ewc")
        model = setting.make_model()
        self._mask = model.mask(config.parameters)
        self._tie = Tie(model.parameters)
        self._active = False
        self._pull: Pull | None = None
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @property
    def _strength(self) -> float:
        return self.config.strength * (self.config.decay if self.config.decay_in_penalty else 1.0)

    def begin(self, lesson: Lesson) -> None:
        """Prepare lambda gamma F~."""
        if self._active:
            curvature = self._strength * self._tie.weight
            training = self.setting.training
            self._pull = make_pull(curvature, self._tie.center, self.config.stiff, training, "online-ewc")

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add the penalty's gradient."""
        return gradient if self._pull is None else self._pull.add_to(gradient, parameters)

    def end(self, lesson: Lesson) -> Outcome:
        """Estimate the Fisher on the experience's training data, fold it in and move the anchor."""
        theta = lesson.model.parameters
        ended_with = self._strength / 2 * self._tie.penalty(theta)
        fisher, cost = diagonal_fisher(
            lesson.model,
            self.setting.objective,
            lesson.data,
            self.config.fisher,
            lesson.key / "fisher",
            self.config.fisher_batch,
        )
        self._tie.weight = accumulate(self._tie.weight, fisher * self._mask, self.config.decay)
        self._tie.anchor_at(theta)
        self._active = True
        self._derived[lesson.data.ids] = True
        clamped = 0.0 if self._pull is None else self._pull.clamped
        return cost + Outcome(losses={"online_ewc_penalty": ended_with, "online_ewc_clamped": clamped})

    def settle(self, model: FlatModel) -> None:
        """Move the anchor to the unlearned weights; otherwise the penalty would pull the forgotten back."""
        self._tie.anchor_at(model.parameters)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose gradients are in the Fisher sum, from which they cannot be taken out, and in the anchor."""
        held = ids[self._derived[ids]]
        return {"fisher": held, "anchor": held}

    def state_dict(self) -> State:
        """Return sum and anchor."""
        derived = torch.from_numpy(self._derived.copy())
        return {"tie": self._tie.state_dict(), "active": self._active, "derived": derived}

    def load_state_dict(self, state: State) -> None:
        """Put sum and anchor back."""
        self._tie.load_state_dict(state["tie"])
        self._active = state["active"]
        self._derived = state["derived"].numpy().copy()
