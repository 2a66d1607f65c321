"""Ignore the request: the data leaves every buffer, the weights stay as they are."""

from __future__ import annotations

from typing import final

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """`none` has no options."""


@final
class NoUnlearning(Unlearner):
    """Changes nothing."""

    @property
    def access(self) -> Access:
        """Nothing."""
        return Access()

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Do nothing."""
        return Outcome(exactness="none")
