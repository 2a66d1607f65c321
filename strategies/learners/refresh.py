"""Refresh: before every step, climb the loss a little along its preconditioned gradient, then descend from there.

Its authors call the climb "unlearning". Nothing is removed by it, and it never serves a deletion request: it acts on
the batch being learned, and to first order penalises the gradient's norm there.
"""

from __future__ import annotations

import logging
import math
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import FisherEstimator
from strategies.parts.fit import Slopes
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import DeletionRequest

logger = logging.getLogger(__name__)

_SAFE_GAMMA = 1e-6


class Config(BaseConfig):
    """Options of `refresh` (Wang et al. 2024, arXiv 2403.13249)."""

    form: Literal["paper", "released"] = "paper"
    """paper: theta <- theta + gamma (damping + F)^-1 g + noise, `steps` times. released: what the authors' code does,
    one step by a fraction `delta` of each tensor's norm, which hardly moves anything."""
    gamma: float = Field(0.003, ge=0)
    """Size of a climbing step (paper). Must stay below damping x lr: climb and descent would cancel."""
    steps: int = Field(1, ge=1)
    """J, climbing steps before each descent (paper)."""
    damping: float = Field(1.0, gt=0)
    """Added to F before it is inverted; F is zero until the first experience is over (paper)."""
    temperature: float = Field(0.0, ge=0)
    """Noise N(0, 2 gamma temperature (damping + F)^-1) (paper). 1 is the paper's letter, and destroys the weights
    unless gamma is about 1e-6."""
    delta: float = Field(1e-5, ge=0)
    """Step relative to the norm of each parameter tensor (released)."""
    preconditioner: float = Field(1e-3, ge=0)
    """Weight of F in 1 / (1 + preconditioner F) (released)."""
    noise: float = Field(1e-3, ge=0)
    """Noise relative to delta (released)."""
    loss: Literal["full", "batch"] | None = None
    """What is climbed: all that is minimised, replayed samples and penalties included, or the loss on the
    experience's own batch; null is full for paper and batch for released."""
    fisher: FisherEstimator = "p-weighted"
    """See `ewc`; p-weighted is what the authors' code does."""
    fisher_batch: int = Field(256, ge=1)
    """Samples per Fisher pass; changes the result of `batch` only."""
    decay: float = Field(1e-5, ge=0, le=1)
    """F <- decay F + F of the experience; with the authors' value F is that of the last one."""


def relative_climb(
    parameters: torch.Tensor, gradient: torch.Tensor, sizes: torch.Tensor, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ||theta_l|| g_l / ||g_l|| for every tensor l, plus `noise`: what the released code scales by delta.

    Args:
        parameters, gradient: ``[P]``.
        sizes: int64 ``[L]``, length of each tensor.
        noise: ``[P]``.
    """
    parts = sizes.tolist()
    norms = torch.stack([p.norm() for p in parameters.split(parts)])
    slopes = torch.stack([g.norm() for g in gradient.split(parts)])
    climb = gradient * torch.repeat_interleave(norms / (slopes + 1e-20), sizes, output_size=len(gradient))
    return climb if noise is None else climb + noise


@final
class Refresh(Plugin):
    """Displaces the weights before each step; the displacement stays."""

    carries = ("_generator",)
    test_options = {"temperature": 1e-6}
    config: Config
    ranges = {"gamma": log(1e-4, 0.1), "steps": linear(1, 5), "damping": log(0.01, 100.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no Fisher information."""
        super().__init__(config, setting)
        training = setting.training
        if config.form == "paper":
            if training.optimizer == "sgd" and config.gamma >= config.damping * training.lr:
                raise ConfigError(
                    f"refresh.gamma: {config.gamma:g} must be below damping x training.lr = "
                    f"{config.damping * training.lr:g}: climb and descent would cancel, and training collapses."
                )
            if config.temperature and config.gamma > _SAFE_GAMMA:
                logger.warning(
                    "refresh: noise of temperature %g with gamma %g is known to destroy what was learned; "
                    "gamma 1e-6 is harmless.",
                    config.temperature,
                    config.gamma,
                )
        slices = setting.outline().slices.values()
        self._sizes = torch.tensor([s.stop - s.start for s in slices], device=setting.device)
        self._fisher = setting.zeros()
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._full = (config.loss or ("full" if config.form == "paper" else "batch")) == "full"
        self._scale = self._noise_scale = self._fisher
        self._generator = torch.Generator()

    @override
    def begin(self, lesson: Lesson) -> None:
        """Invert the Fisher information and name the noise."""
        config = self.config
        self._generator = (lesson.key / "refresh").torch()
        if config.form == "paper":
            inverse = (config.damping + self._fisher).reciprocal_()
            if config.temperature:
                self._noise_scale = inverse.sqrt().mul_(math.sqrt(2 * config.gamma * config.temperature))
            self._scale = inverse.mul_(config.gamma)
        else:
            self._scale = config.delta / (1 + config.preconditioner * self._fisher)

    @override
    def displace(self, parameters: torch.Tensor, slopes: Slopes) -> torch.Tensor:
        slope = slopes.full if self._full else slopes.own
        if self.config.form == "released":
            if self.config.delta:
                noise = self.config.noise * self._draw(parameters) if self.config.noise else None
                climb = relative_climb(parameters, slope(parameters), self._sizes, noise)
                parameters.addcmul_(self._scale, climb)
            return parameters
        if self.config.gamma:
            for _ in range(self.config.steps):
                parameters.addcmul_(self._scale, slope(parameters))
                if self.config.temperature:
                    parameters.addcmul_(self._noise_scale, self._draw(parameters))
        return parameters

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Renew the Fisher information, in evaluation mode, on the experience's training data."""
        fisher, cost = diagonal_fisher(
            lesson.model,
            self.setting.objective,
            lesson.data,
            self.config.fisher,
            lesson.key / "refresh-fisher",
            self.config.fisher_batch,
        )
        self._fisher = self.config.decay * self._fisher + fisher
        if not self.config.decay:
            self._derived[:] = False
        self._derived[lesson.data.ids] = True
        return cost

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Start over with no Fisher information if it derives from the request's samples: it only shapes steps."""
        if self._derived[request.sample_ids].any():
            self._fisher = torch.zeros_like(self._fisher)
            self._derived[:] = False

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"fisher": ids[self._derived[ids]]}

    @override
    def state_dict(self) -> State:
        return {"fisher": self._fisher.clone(), "derived": torch.from_numpy(self._derived.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._fisher = state["fisher"].clone()
        self._derived = state["derived"].numpy().copy()

    def _draw(self, parameters: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(parameters.shape, generator=self._generator, dtype=parameters.dtype)
        return noise.to(parameters.device)
