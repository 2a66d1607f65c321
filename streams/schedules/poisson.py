"""Requests at random: a Poisson number of them after every experience."""

from __future__ import annotations

from pydantic import Field

from streams.plan import Learn, Plan, Scheduled
from streams.randomness import Key
from streams.schedules._common import DrawnConfig


class Config(DrawnConfig):
    """Options of `poisson`."""

    rate: float = Field(0.3, gt=0)
    """Expected number of requests per experience."""
    start: int = Field(1, ge=1)
    """Number of experiences before the first request can come."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with Poisson(rate) requests after each; the number is keyed by the experience's name."""
    scheduled: list[Scheduled] = []
    number = 0
    for index, experience in enumerate(plan.experiences):
        scheduled.append(Learn(index))
        if index + 1 >= config.start:
            draw = (key / "arrivals" / experience.name).numpy()
            for _ in range(int(draw.poisson(config.rate))):
                scheduled.append(config.spec(number))
                number += 1
    return scheduled
