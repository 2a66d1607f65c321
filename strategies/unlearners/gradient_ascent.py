"""Gradient ascent on the loss of the forget set; needs no retained data, and is unbounded."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.fit import FitConfig, fit
from strategies.ranges import TRAINED
from strategies.unlearners._ascent import Ascend, AscentConfig, Brake, climb
from streams.events import DeletionRequest


class Config(AscentConfig, FitConfig):
    """Options of `gradient-ascent`; defaults as commonly published for CIFAR."""

    epochs: int = Field(5, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate. On a memorised forget set the gradient is near zero at first, and then explodes."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""


@final
class GradientAscent(Unlearner):
    """Maximises the mean loss of the forget set."""

    test_options = {"epochs": 2, "batch_size": 64}
    config: Config
    ranges = TRAINED

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        key = self.setting.key / "gradient-ascent" / request.name
        data, model = door.forget_set(), learner.model
        brake = Brake(self.config, model)
        hooks = [brake, Ascend(brake)]

        def train() -> Outcome:
            return fit(model, self.setting.objective, data, self.config, key, hooks)

        return climb(model, self.config, brake, request, train).graded("none")
