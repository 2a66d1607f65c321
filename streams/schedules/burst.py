"""Many requests in a row at one moment, after quiet learning."""

from __future__ import annotations

from pydantic import Field

from streams.errors import ConfigError
from streams.plan import Learn, Plan, Scheduled
from streams.randomness import Key
from streams.schedules._common import DrawnConfig


class Config(DrawnConfig):
    """Options of `burst`."""

    after: int = Field(3, ge=1)
    """Number of experiences learned before the burst."""
    requests: int = Field(5, ge=1)
    """Number of requests in it."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with all requests after number `after`."""
    if config.after > len(plan.experiences):
        raise ConfigError(f"schedule.after: {config.after} is past the last of {len(plan.experiences)} experiences.")
    scheduled: list[Scheduled] = [Learn(i) for i in range(len(plan.experiences))]
    scheduled[config.after : config.after] = [config.spec(n) for n in range(config.requests)]
    return scheduled
