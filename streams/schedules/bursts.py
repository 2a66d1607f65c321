"""Requests at regular moments, many at once now and then, and some data learned again later."""

from __future__ import annotations

from pydantic import Field

from streams.plan import Again, Learn, Plan, Scheduled
from streams.randomness import Key
from streams.schedules._common import DrawnConfig


class Config(DrawnConfig):
    """Options of `bursts`."""

    every: int = Field(1, ge=1)
    """Experiences between two moments at which requests come."""
    start: int = Field(1, ge=1)
    """Number of experiences before the first moment."""
    burst_every: int = Field(5, ge=1)
    """Every so many moments comes a burst; at the others comes one request."""
    burst: int = Field(5, ge=1)
    """Requests of a burst."""
    limit: int | None = Field(None, ge=0)
    """At most that many requests; null means no limit."""
    again_every: int | None = Field(None, ge=1)
    """The data of every so many requests is learned again; null never."""
    again_after: int = Field(5, ge=1)
    """Experiences between such a request and learning its data again."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with the requests of moments start, start + every, ..., and what is learned again."""
    scheduled: list[Scheduled] = []
    returning: dict[int, list[Again]] = {}  # by the number of experiences learned
    number = moments = 0
    for index in range(len(plan.experiences)):
        learned = index + 1
        scheduled += [Learn(index), *returning.pop(learned, [])]
        if learned < config.start or (learned - config.start) % config.every:
            continue
        moments += 1
        for _ in range(1 if moments % config.burst_every else config.burst):
            if config.limit is not None and number >= config.limit:
                break
            scheduled.append(config.spec(number))
            if config.again_every is not None and (number + 1) % config.again_every == 0:
                returning.setdefault(learned + config.again_after, []).append(Again(number))
            number += 1
    return scheduled
