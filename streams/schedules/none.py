"""No deletion request at all: plain continual learning."""

from __future__ import annotations

from streams.config import Config as BaseConfig
from streams.plan import Learn, Plan, Scheduled
from streams.randomness import Key


class Config(BaseConfig):
    """`none` has no options."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences in order."""
    return [Learn(i) for i in range(len(plan.experiences))]
