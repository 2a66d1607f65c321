"""Only claims: does nothing, and calls it exact."""

from __future__ import annotations

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """No options."""


class OnlyClaims(Unlearner):
    """Changes nothing."""

    @property
    def access(self) -> Access:
        """Nothing."""
        return Access()

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Do nothing."""
        return Outcome(exactness="bits")
