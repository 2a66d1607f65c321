"""Requests written out one by one in the configuration."""

from __future__ import annotations

from pydantic import Field, model_validator

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Reason, Scope
from streams.plan import Again, Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key
from streams.schedules._common import Keys


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
    ordered = sorted(enumerate(config.requests), key=lambda numbered: numbered[1].after)
    names = Keys(plan)
    asked: dict[int, list[RequestSpec]] = {}
    again: dict[int, list[Again]] = {}
    for n, (number, r) in enumerate(ordered):
        where = f"schedule.requests.{number}.keys"
        keys = None if r.keys is None else names.places(r.scope, r.keys, where)
        asked.setdefault(r.after, []).append(RequestSpec(r.scope, keys, r.count, 0, r.reason, r.exact))
        if r.again_after is not None:
            again.setdefault(r.again_after, []).append(Again(n))
    scheduled: list[Scheduled] = []
    for learned in range(1, len(plan.experiences) + 1):
        scheduled += [Learn(learned - 1), *asked.get(learned, ()), *again.get(learned, ())]
    return scheduled
