"""Amnesiac unlearning: subtract the updates of the training steps that saw the forget set; needs `update-log`."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.fit import fit
from strategies.parts.weights.updates import UpdateLog
from strategies.unlearners._retained import DefaultRetainConfig, finish, retained_access, some_retained_data
from streams.events import DeletionRequest


class Config(DefaultRetainConfig):
    """Options of `amnesiac` (Graves et al. 2021, arXiv 2010.10981). Relabelling under that name is `random-label`."""

    repair: bool = False
    """Fine-tune on retained data afterwards, by the options above; the paper does so when many steps are undone."""
    epochs: int = Field(1, ge=1)
    """Passes over the retained data, with `repair`."""


@final
class Amnesiac(Unlearner):
    """theta minus the sum of all changes whose batch held a sample of the request.

    Not exact: later changes were computed at weights that the forgotten samples had shaped.
    """

    config: Config
    ranges = {}  # what it subtracts has no strength; the options are those of a repair that is off by default

    @property
    @override
    def access(self) -> Access:
        return retained_access(self.config.retained, forget_set=False) if self.config.repair else Access()

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("update-log",)

    @property
    @override
    def needs_retained(self) -> bool:
        return self.config.repair

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        log = learner.part(UpdateLog)
        before = len(log)
        change = log.take(request.sample_ids)
        if change is not None:
            learner.model.parameters.sub_(change)
        outcome = Outcome(losses={"undone": (before - len(log)) / max(before, 1)})
        if self.config.repair:
            data = some_retained_data(self.config.retained, learner, door, request)
            key = self.setting.key / "amnesiac" / request.name
            outcome += fit(learner.model, self.setting.objective, data, self.config, key)
            outcome += finish(self.config, learner, data)
        return outcome.graded("none")
