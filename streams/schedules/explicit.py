"""Requests written out one by one in the configuration."""

from __future__ import annotations

from pydantic import Field, model_validator

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Reason, Scope
from streams.plan import Again, Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key
from streams.schedules._common import numbered


class ListedRequest(BaseConfig):
    """One request of the list."""

    after: int = Field(ge=1)
    """Number of experiences learned before it arrives."""
    scope: Scope
    """What the keys name."""
    keys: tuple[int | str, ...] | None = None
    """Numbers of samples, or names of classes, tasks or users, as the data calls them: text, or the number that is in
    a name (3 is the class `3`, 10 the user `user-10`). Where names have no numbers, a number is a place in their order,
    from 0. Null draws `count` of them from what is live."""
    count: int = Field(1, ge=1)
    """How many to draw when `keys` is null."""
    reason: Reason = "erase"
    """erase (privacy), correct (bad data) or suppress (a concept must go)."""
    exact: bool = False
    """Whether the requester demands exactness."""
    again_after: int | None = Field(None, ge=1)
    """Learn the deleted data again after that many experiences of the plan; null never."""

    @model_validator(mode="after")
    def _ordered(self) -> ListedRequest:
        if self.keys is not None and not self.keys:
            raise ValueError("keys must name at least one thing, or be null to draw")
        if self.again_after is not None and self.again_after < self.after:
            raise ValueError(f"again_after={self.again_after} must not come before after={self.after}")
        return self


class Config(BaseConfig):
    """Options of `explicit`."""

    requests: tuple[ListedRequest, ...] = ()
    """The requests, in order of arrival."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with each request, and each learning again, after the number it names."""
    last = max([0, *(max(r.after, r.again_after or 0) for r in config.requests)])
    if last > len(plan.experiences):
        raise ConfigError(f"schedule.requests: {last} is past the last of {len(plan.experiences)} experiences.")
    ordered = sorted(config.requests, key=lambda r: r.after)
    scheduled: list[Scheduled] = []
    for index in range(len(plan.experiences)):
        scheduled.append(Learn(index))
        for r in ordered:
            if r.after == index + 1:
                where = f"schedule.requests.{config.requests.index(r)}.keys"
                keys = None if r.keys is None else numbered(plan, r.scope, r.keys, where)
                scheduled.append(RequestSpec(r.scope, keys, r.count, 0, r.reason, r.exact))
        scheduled.extend(Again(n) for n, r in enumerate(ordered) if r.again_after == index + 1)
    return scheduled
