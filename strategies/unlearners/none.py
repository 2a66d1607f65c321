"""Ignore the request: the data leaves every buffer, the weights stay as they are."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """`none` has no options."""


@final
class NoUnlearning(Unlearner):
    """Changes nothing."""

    @property
    @override
    def access(self) -> Access:
        return Access()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        return Outcome(exactness="none")
