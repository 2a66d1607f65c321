"""A request after every k-th experience, for data that has reached a certain age."""

from __future__ import annotations

from pydantic import Field

from streams.plan import Learn, Plan, Scheduled
from streams.randomness import Key
from streams.schedules._common import DrawnConfig


class Config(DrawnConfig):
    """Options of `delayed`."""

    age: int = Field(3, ge=1)
    """Learn events that must have passed since the data was learned."""
    every: int = Field(1, ge=1)
    """Experiences between two requests, once data is old enough."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with a request for old data after numbers age + 1, age + 1 + every, ..."""
    scheduled: list[Scheduled] = []
    for index in range(len(plan.experiences)):
        scheduled.append(Learn(index))
        if index >= config.age and (index - config.age) % config.every == 0:
            scheduled.append(config.spec((index - config.age) // config.every, config.age))
    return scheduled
