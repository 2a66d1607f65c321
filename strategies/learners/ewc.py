"""EWC: keep each weight near its earlier values in proportion to its Fisher information (offline and online)."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import FisherEstimator
from strategies.parts.fisher import diagonal_fisher
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.errors import TrainingError


class Config(BaseConfig):
    """Options of `ewc` (Kirkpatrick et al. 2017, arXiv 1612.00796; online: Schwarz et al. 2018, arXiv 1805.06370)."""

    strength: float = Field(100.0, ge=0)
    """lambda in (lambda / 2) sum_k F_k (theta - theta_k)^2. Its scale depends on the estimator."""
    mode: Literal["offline", "online"] = "offline"
    """One anchor per experience, or a single anchor with a decayed sum of Fishers."""
    decay: float = Field(1.0, ge=0, le=1)
    """gamma of `online`: F <- gamma F + F_new after an experience; the penalty uses gamma F as in the paper."""
    fisher: FisherEstimator = "sampled"
    """exact: mean_x sum_c p(c|x) (d l(x,c))^2. sampled: mean_x (d l(x,y'))^2, y' ~ p, unbiased for exact at one
    backward. empirical: mean_x (d l(x,y))^2. p-weighted: mean_x p(y|x) (d l(x,y))^2. batch: mean over batches of
    (d mean l)^2, as in Avalanche, about 1/fisher_batch of empirical."""
    fisher_batch: int = Field(256, ge=1)
    """Samples per Fisher pass; changes the result of `batch` only."""
    parameters: Literal["all", "body"] = "all"
    """Tie everything, or leave the head free."""
    stiff: Literal["clamp", "refuse"] = "clamp"
    """Explicit SGD is stable only while lr x strength x F < 2. What to do with stiffer weights: clamp them to
    lr x strength x F = 1, which snaps them back to their anchor in one step (the share is reported as
    `ewc_clamped`), or refuse to go on."""


def penalty(parameters: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, offset: float) -> float:
    """Return sum_k F_k (theta - theta_k)^2 / 2 from its running sums.

    Args:
        parameters: theta, ``[P]``.
        weight: sum_k F_k.
        target: sum_k F_k theta_k.
        offset: sum_k F_k theta_k^2, summed over parameters.
    """
    quadratic = (weight * parameters.square()).sum() - 2 * (target * parameters).sum()
    return 0.5 * (float(quadratic) + offset)


@final
class EWC(Plugin):
    """Folds all past experiences into two vectors, so that time and memory do not grow with their number."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        model = setting.make_model()
        self._mask = model.mask(config.parameters)
        self._weight = torch.zeros_like(model.parameters)
        self._target = torch.zeros_like(model.parameters)
        self._offset = 0.0
        self._experiences = 0
        self._pull = self._pull_to = self._weight
        self._clamped = 0.0
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @property
    def _strength(self) -> float:
        online = self.config.mode == "online"
        return self.config.strength * (self.config.decay if online else 1.0)

    def begin(self, lesson: Lesson) -> None:
        """Prepare lambda sum F and lambda sum F theta_k, clamped where an explicit step would overshoot."""
        self._pull, self._pull_to = self._strength * self._weight, self._strength * self._target
        self._clamped = 0.0
        training = self.setting.training
        stiff = self._pull * training.lr >= 2
        if training.optimizer == "sgd" and bool(stiff.any()):
            if self.config.stiff == "refuse":
                raise TrainingError(
                    f"ewc.strength: {self.config.strength:g} makes lr x strength x F = "
                    f"{float(self._pull.max()) * training.lr:.3g} on the stiffest weight; explicit steps need less "
                    f"than 2. Lower strength or training.lr, or set ewc.stiff: clamp."
                )
            scale = torch.where(stiff, 1 / (training.lr * self._pull), 1.0)
            self._pull, self._pull_to = self._pull * scale, self._pull_to * scale
            self._clamped = float(stiff.float().mean())

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add lambda (sum F theta - sum F theta_k)."""
        if not self._experiences:
            return gradient
        return gradient.addcmul_(self._pull, parameters).sub_(self._pull_to)

    def end(self, lesson: Lesson) -> Outcome:
        """Estimate the Fisher on the experience's training data and fold it in."""
        theta = lesson.model.parameters
        ended_with = self._strength * penalty(theta, self._weight, self._target, self._offset)
        fisher, cost = diagonal_fisher(
            lesson.model,
            self.setting.objective,
            lesson.data,
            self.config.fisher,
            lesson.key / "fisher",
            self.config.fisher_batch,
        )
        fisher *= self._mask
        if self.config.mode == "offline":
            self._weight += fisher
            self._target += fisher * theta
            self._offset += float((fisher * theta.square()).sum())
        else:
            self._weight = self.config.decay * self._weight + fisher
            self._anchor_at(theta)
        self._experiences += 1
        self._derived[lesson.data.ids] = True
        return cost + Outcome(losses={"ewc_penalty": ended_with, "ewc_clamped": self._clamped})

    def settle(self, model: FlatModel) -> None:
        """Move every anchor to the unlearned weights; otherwise the penalty would pull the forgotten back."""
        self._anchor_at(model.parameters)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose gradients the Fisher sums contain: they cannot be taken out of the sum again."""
        return {"fisher": ids[self._derived[ids]]}

    def state_dict(self) -> State:
        """Return the running sums."""
        return {
            "weight": self._weight.clone(),
            "target": self._target.clone(),
            "offset": self._offset,
            "experiences": self._experiences,
            "derived": torch.from_numpy(self._derived.copy()),
        }

    def load_state_dict(self, state: State) -> None:
        """Put the running sums back."""
        self._weight, self._target = state["weight"].clone(), state["target"].clone()
        self._offset, self._experiences = state["offset"], state["experiences"]
        self._derived = state["derived"].numpy().copy()

    def _anchor_at(self, theta: torch.Tensor) -> None:
        self._target = self._weight * theta
        self._offset = float((self._weight * theta.square()).sum())
