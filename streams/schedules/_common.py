"""What schedules share: options of those that draw their requests, and names of what is to be deleted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import Field, field_validator

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Reason, Scope
from streams.names import names_of, number_in
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


class Keys:
    """What keys in a configuration mean, of classes, tasks and users: their places. Samples are their own numbers.

    Text is a name. A number is the one that stands in a name (`3`, `user-3`); only where a name has none it may also be
    a place, from 0.
    """

    def __init__(self, plan: Plan) -> None:
        """Take what is learned."""
        self._plan = plan
        self._names: dict[Scope, _Names] = {}

    def places(self, scope: Scope, keys: Sequence[int | str], where: str) -> tuple[int, ...]:
        """Return the places that `keys` mean.

        Args:
            scope: what the keys name.
            keys: numbers and names.
            where: the key or line to name in an error.

        Raises:
            ConfigError: nothing is called so, or a key could mean two things.
        """
        if scope != "sample":
            if scope not in self._names:
                self._names[scope] = _Names(names_of(scope, self._plan.source, self._plan.units))
            return tuple(self._names[scope].place(key, scope, where) for key in keys)
        for key in keys:
            if isinstance(key, str):
                raise ConfigError(f"{where}: {key!r} is not valid: samples have no names. Give their numbers.")
        return tuple(int(key) for key in keys)


class _Names:
    """The names of one scope, and where each name and each number in a name is."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._places: dict[int | str, list[int]] = {}
        self._some_without_number = False
        for place, name in enumerate(names):
            self._places.setdefault(name, []).append(place)
            if (number := number_in(name)) is None:
                self._some_without_number = True
            else:
                self._places.setdefault(number, []).append(place)

    def place(self, key: int | str, scope: Scope, where: str) -> int:
        """Return the place that a key means."""
        names, places = self._names, list(self._places.get(key, ()))
        by_place = isinstance(key, int) and self._some_without_number
        if isinstance(key, int) and by_place and 0 <= key < len(names) and key not in places:
            places.append(key)
        if len(places) == 1:
            return places[0]
        if places:
            meanings = " or ".join(repr(names[place]) for place in places[:3])
            raise ConfigError(f"{where}: {key!r} could mean the {scope} {meanings}. Write the name in full, as text.")
        near = difflib.get_close_matches(key, names, n=1) if isinstance(key, str) else []
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"{where}: there is no {scope} called {key!r}. {hint}There are {len(names)}, {names[0]!r} to {names[-1]!r}"
            + (f"; by number 0 to {len(names) - 1}." if by_place else ".")
        )
