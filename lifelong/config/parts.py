"""What a configuration names, looked up once: what is built later in a run is what was there when it was prepared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from streams.config import Config, Named, resolve


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One thing that a configuration names.

    Attributes:
        kind: one of `streams.registry.KINDS`.
        name: what the configuration calls it.
        where: the configuration key to name in an error.
        module: what holds it.
        options: its own, validated.
        of: what it is made from, where that is a part of the same kind (a source made from another one).
    """

    kind: str
    name: str
    where: str
    module: ModuleType
    options: Config
    of: Part | None

    def data(self) -> dict[str, Any]:
        """Return it as plain data with every option written out."""
        data = {"name": self.name, **self.options.model_dump(mode="json")}
        return data if self.of is None else data | {"of": self.of.data()}


@dataclass(frozen=True, slots=True, eq=False)
class StrategyParts:
    """What one strategy is built from: learner plugins with an unlearner and perhaps a guard, or an isolated one.

    Attributes:
        where: the configuration key to name in an error.
        learner: plugins, in their order; none of an isolated strategy.
        unlearner, guard, isolated: None where there is none.
        unlearning_seed: see `StrategyConfig`.
    """

    where: str
    learner: tuple[Part, ...] = ()
    unlearner: Part | None = None
    guard: Part | None = None
    isolated: Part | None = None
    unlearning_seed: int = 0

    @property
    def plugins(self) -> list[str]:
        """Names of the learner's plugins."""
        return [part.name for part in self.learner]

    def __iter__(self) -> Iterator[Part]:
        """Yield all parts."""
        yield from self.learner
        yield from (part for part in (self.unlearner, self.guard, self.isolated) if part is not None)

    def data(self) -> dict[str, Any]:
        """Return it as plain data with every option written out."""
        if self.isolated is not None:
            return {"isolated": self.isolated.data()}
        assert self.unlearner is not None
        guard = {} if self.guard is None else {"guard": self.guard.data()}
        return {
            "learner": [plugin.data() for plugin in self.learner],
            "unlearner": self.unlearner.data(),
            **guard,
            "unlearning_seed": self.unlearning_seed,
        }


def find_part(kind: str, named: Named, where: str) -> Part:
    """Look up what a configuration names.

    Raises:
        ConfigError: the name or an option is not valid.
    """
    module, options = resolve(kind, named, where)
    inner = getattr(options, "of", None)
    of = find_part(kind, inner, f"{where}.of") if isinstance(inner, Named) else None
    return Part(kind, named.name, where, module, options, of)
