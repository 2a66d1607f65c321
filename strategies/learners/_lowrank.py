"""What `lora` and `o-lora` share: factors of its own for every experience, whose product stays in the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.lowrank.changes import Factors, LowRankSteps, check_rank, fresh_factors, matrices_of
from strategies.parts.training.optimizers import Optimizer
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class LowRankConfig(BaseConfig):
    """How an experience changes the weights in low rank."""

    rank: int = Field(8, ge=1)
    """r, the rank of what one experience changes in each matrix."""
    alpha: float = Field(16.0, gt=0)
    """The change is alpha / r times the product of the factors."""
    base: int = Field(1, ge=0)
    """So many experiences at the start train all weights, in place of a pretraining; 0 for a pretrained model."""


class LowRankPlugin(Plugin):
    """Takes the steps on factors. Derived classes may ask for more of them."""

    test_options = {"rank": 4}
    config: Any
    name: str
    strength: float = 0.0
    """Of the penalty on what new factors share with those of `earlier` experiences."""
    absolute: bool = False
    """Whether that penalty sums absolute values, or squares."""

    def __init__(self, config: LowRankConfig, setting: Setting) -> None:
        """Look at the model.

        Raises:
            ConfigError: the rank is too high, or the optimizer should be carried, which has no meaning here.
        """
        super().__init__(config, setting)
        if setting.training.carry_optimizer:
            raise ConfigError(
                f"training.carry_optimizer: the factors of {self.name!r} are new in every experience, and so are their "
                f"moments; set it to false."
            )
        model = setting.outline()
        self._matrices = matrices_of(model)
        check_rank(config.rank, self._matrices, f"learner.{self.name}.rank")
        # Where the head says next tokens it is as frozen as the rest; a head of classes must learn new ones.
        own_head = setting.objective.predicts != "tokens"
        self._free = model.mask("head", setting.device).nonzero().squeeze(1) if own_head else None
        self._seen = 0
        self._now: LowRankSteps | None = None

    def earlier(self) -> list[list[torch.Tensor]]:
        """Return the A of earlier experiences to which new ones should be orthogonal."""
        return []

    def keep(self, factors: list[Factors], ids: np.ndarray) -> None:
        """Take note of the factors of an experience."""

    @override
    def steps(self, lesson: Lesson) -> Optimizer | None:
        """Return steps of new factors, but for the experiences at the start."""
        self._now = None
        if self._seen >= self.config.base:
            factors = fresh_factors(self._matrices, self.config.rank, lesson.key / "factors", lesson.model.parameters)
            self._now = LowRankSteps(
                self.setting.training,
                lesson.model.parameters,
                self._matrices,
                factors,
                self.config.alpha / self.config.rank,
                self._free,
                self.earlier(),
                self.strength,
                self.absolute,
            )
        return self._now

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._seen += 1
        steps, self._now = self._now, None
        if steps is None:
            return Outcome()
        losses = {"overlap": steps.penalty()} if self.earlier() else {}
        self.keep([(a.clone(), b.clone()) for a, b in steps.factors()], lesson.data.ids)
        return Outcome(losses=losses)

    @override
    def state_dict(self) -> State:
        return {"seen": self._seen}

    @override
    def load_state_dict(self, state: State) -> None:
        self._seen = state["seen"]
