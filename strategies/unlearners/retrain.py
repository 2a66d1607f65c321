"""Retrain from scratch: live the whole life again without the deleted data. Exact to the bit, at full price."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """`retrain` has no options."""


@final
class Retrain(Unlearner):
    """Resets the learner and teaches it every surviving experience again, in order and by the same names."""

    exact = "always"

    @property
    @override
    def access(self) -> Access:
        return Access(retained="full")

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        learner.reset()
        outcome = Outcome()
        for experience in door.history():
            outcome += learner.learn(experience, door)
        return outcome.graded("bits")
