"""What schedules share: options of those that draw their requests, and names of what is to be deleted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import Field, field_validator

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Reason, Scope
from streams.names import names_of
from streams.plan import Plan, RequestSpec


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

    def spec(self, number: int, age: int = 0) -> RequestSpec:
        """Return the request of that number (from 0), drawn from data at least `age` learn events old."""
        scope = self.scope if isinstance(self.scope, str) else self.scope[number % len(self.scope)]
        return RequestSpec(scope, None, self.samples if scope == "sample" else self.count, age, self.reason, self.exact)


def numbered(plan: Plan, scope: Scope, keys: Sequence[int | str], where: str) -> tuple[int, ...]:
    """Return keys as numbers; text among them is the name of a class, a task or a user.

    Args:
        plan: what is learned.
        scope: what the keys name.
        keys: numbers and names.
        where: the key or line to name in an error.

    Raises:
        ConfigError: nothing has that name, or a number is a name that is not written as text.
    """
    names = names_of(scope, plan.source, plan.units)
    numbers = {name: number for number, name in enumerate(names)}
    for key in keys:
        if isinstance(key, int) and key >= len(names) and str(key) in numbers:
            raise ConfigError(f"{where}: {key} is the name of a {scope}, not its number. Names are text: '{key}'.")
        if isinstance(key, str) and key not in numbers:
            if not names:
                raise ConfigError(f"{where}: {key!r} is not valid: samples have no names. Give their numbers.")
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{where}: there is no {scope} called {key!r}. {hint}There are {len(names)}, {names[0]!r} to "
                f"{names[-1]!r}."
            )
    return tuple(numbers[key] if isinstance(key, str) else key for key in keys)
