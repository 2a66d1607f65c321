"""Task vector: learn the forget set even better on a copy, and step from there to the other side of the model."""

from __future__ import annotations

from functools import partial
from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.fit import FitConfig, fit
from strategies.ranges import TRAINED, log
from strategies.unlearners._negated import negated
from streams.events import DeletionRequest


class Config(FitConfig):
    """Options of `task-vector` (Ilharco et al. 2023, arXiv 2212.04089)."""

    epochs: int = Field(5, ge=1)
    """Passes over the forget set with which the copy is trained."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    alpha: float = Field(1.0, ge=0)
    """How far to step: theta - alpha (theta_learned - theta). MUSE chose 16 for news and 1 for books."""


@final
class TaskVector(Unlearner):
    """Subtracts what learning the forget set adds to the weights; each request has a vector of its own."""

    test_options = {"epochs": 1, "batch_size": 64}
    config: Config
    ranges = TRAINED | {"alpha": log(0.1, 16.0)}
    becomes = {"none": {"alpha": 0.0}}

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Train in place, then reflect."""
        config, objective, forget_set = self.config, self.setting.objective, door.forget_set()
        key = self.setting.key / "task-vector" / request.name
        train = partial(fit, learner.model, objective, forget_set, config, key)
        return negated(learner.model, config.alpha, train).graded("none")
