"""What the schedules that draw their requests share."""

from __future__ import annotations

from pydantic import Field, field_validator

from streams.config import Config as BaseConfig
from streams.events import Reason, Scope
from streams.plan import Wish


class DrawnConfig(BaseConfig):
    """Options of every schedule whose requests are drawn by name from the run's seed."""

    scope: Scope | tuple[Scope, ...] = "sample"
    """What a request names; a list is taken in turn, request by request."""
    count: int = Field(1, ge=1)
    """How many samples, classes, tasks or users one request names (`samples` overrides it for samples)."""
    samples: int = Field(10, ge=1)
    """How many samples a sample-scoped request names."""
    reason: Reason = "erase"
    """erase (privacy), correct (bad data) or suppress (a concept must go)."""
    exact: bool = False
    """Whether the requester demands exactness."""

    @field_validator("scope")
    @classmethod
    def _not_empty(cls, value: Scope | tuple[Scope, ...]) -> Scope | tuple[Scope, ...]:
        if not value:
            raise ValueError("needs at least one of sample, class, task, user")
        return value

    def wish(self, number: int, age: int = 0) -> Wish:
        """Return the request of that number (from 0), drawn from data at least `age` learn events old."""
        scope = self.scope if isinstance(self.scope, str) else self.scope[number % len(self.scope)]
        return Wish(scope, None, self.samples if scope == "sample" else self.count, age, self.reason, self.exact)
