"""Fine-tune on the retained data and hope that the rest fades (catastrophic forgetting as unlearning)."""

from __future__ import annotations

from typing import final

from pydantic import Field

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.fit import FitConfig, fit
from strategies.unlearners._retained import RetainedData, retained_access, retained_data
from streams.events import DeletionRequest


class Config(FitConfig):
    """Options of `finetune`; defaults as commonly published for CIFAR (SGD .01 / .9, weight decay 5e-4, batch 256)."""

    epochs: int = Field(10, ge=1)
    """Passes over the retained data."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    retained: RetainedData = "full"
    """Train on all live data, or on what the learner's plugins keep (a replay memory)."""


@final
class Finetune(Unlearner):
    """Minimises the mean loss of the retained data from the present weights."""

    config: Config

    @property
    def access(self) -> Access:
        """Retained data only; the forget set is never read."""
        return retained_access(self.config.retained, forget_set=False)

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Train on what is left."""
        data = retained_data(self.config.retained, learner, door)
        key = self.setting.key / "finetune" / request.name
        return fit(learner.model, self.setting.objective, data, self.config, key).graded("none")
