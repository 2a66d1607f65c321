"""Fine-tune on the retained data and hope that the rest fades (catastrophic forgetting as unlearning)."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.fit import fit
from strategies.unlearners._retained import DefaultRetainConfig, finish, retained_access, some_retained_data
from streams.events import DeletionRequest


class Config(DefaultRetainConfig):
    """Options of `finetune`."""

    epochs: int = Field(10, ge=1)
    """Passes over the retained data."""


@final
class Finetune(Unlearner):
    """Minimises the mean loss of the retained data from the present weights."""

    test_options = {"epochs": 2, "batch_size": 64}
    config: Config

    @property
    @override
    def access(self) -> Access:
        return retained_access(self.config.retained, forget_set=False)

    @property
    @override
    def needs_retained(self) -> bool:
        """There is nothing else to train on."""
        return True

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        data = some_retained_data(self.config.retained, learner, door, request)
        key = self.setting.key / "finetune" / request.name
        outcome = fit(learner.model, self.setting.objective, data, self.config, key)
        return (outcome + finish(self.config, learner, data)).graded("none")
