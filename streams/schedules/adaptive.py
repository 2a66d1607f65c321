"""Requests that depend on published models: delete what one constituent alone is sure of."""

from __future__ import annotations

from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.plan import Aim, Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `adaptive` (after Gupta et al. 2021, arXiv 2106.04378).

    The requester sees the models that one strategy of the run publishes, and names the samples to whose label one of
    them gives a probability furthest above what the others give it: most likely, those that it was trained on. The
    stream that comes of it is the same for all strategies of the run.
    """

    publisher: str | None = None
    """The strategy of the run whose models are published; null takes the first."""
    constituent: int = Field(0, ge=0)
    """Number of the constituent that is aimed at; where there is a single model, what it is surest of is deleted."""
    samples: int = Field(10, ge=1)
    """How many samples one request names."""
    every: int = Field(1, ge=1)
    """Experiences between two rounds of requests."""
    start: int = Field(1, ge=1)
    """Number of experiences before the first round."""
    requests: int = Field(1, ge=1)
    """Requests in a round, each after looking at the models that the one before left."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with aimed requests after each of numbers start, start + every, ..."""
    if config.start > len(plan.experiences):
        raise ConfigError(f"schedule.start: {config.start} is past the last of {len(plan.experiences)} experiences.")
    scheduled: list[Scheduled] = []
    for index in range(len(plan.experiences)):
        scheduled.append(Learn(index))
        if index + 1 >= config.start and (index + 1 - config.start) % config.every == 0:
            aim = Aim(config.publisher, config.constituent)
            scheduled += [RequestSpec("sample", None, config.samples, choice=aim) for _ in range(config.requests)]
    return scheduled
