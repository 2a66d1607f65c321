"""A request after every k-th experience."""

from __future__ import annotations

from pydantic import Field

from streams.plan import Learn, Plan, Scheduled
from streams.randomness import Key
from streams.schedules._common import DrawnConfig


class Config(DrawnConfig):
    """Options of `periodic`."""

    every: int = Field(1, ge=1)
    """Experiences between two requests."""
    start: int = Field(1, ge=1)
    """Number of experiences before the first request."""
    limit: int | None = Field(None, ge=0)
    """At most that many requests; null means no limit."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with a request after each of numbers start, start + every, ..."""
    scheduled: list[Scheduled] = []
    number = 0
    for index in range(len(plan.experiences)):
        scheduled.append(Learn(index))
        learned = index + 1
        within = config.limit is None or number < config.limit
        if within and learned >= config.start and (learned - config.start) % config.every == 0:
            scheduled.append(config.spec(number))
            number += 1
    return scheduled
