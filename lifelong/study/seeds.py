"""Which seeds a study has, and so how it may conclude: a number set beforehand, looks, or as many as one likes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from lifelong.study.inference import Rule
from lifelong.study.statistics import FEWEST_SEEDS
from streams.config import Config, parse

_MAX_SEEDS = 10_000


def _seeds(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, int) and not 1 <= value <= _MAX_SEEDS):
        raise ValueError(f"it must be a list of seeds, or how many (1 to {_MAX_SEEDS})")
    return list(range(value)) if isinstance(value, int) else value


FixedSeeds = Annotated[tuple[int, ...], BeforeValidator(_seeds), Field(min_length=1)]
AtLeastThree = Annotated[int, Field(ge=FEWEST_SEEDS, le=_MAX_SEEDS)]


class Looks(Config):
    """Numbers of seeds at which the study is judged; it ends at the first at which every criterion is decided."""

    looks: tuple[AtLeastThree, ...] = Field(min_length=2)
    """Judge with so many seeds, then, if a criterion is undecided, with more of them, as in [5, 10, 20]. Each look has
    the same level, so chosen that all of them together err as seldom as one would (Pocock)."""
    first: int = Field(0, ge=0)
    """The first seed. Where verdicts of a fixed number were seen already, plan looks at seeds that were not (200)."""

    @model_validator(mode="after")
    def _rising(self) -> Looks:
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError("looks must rise, as in [5, 10, 20]")
        return self


class Open(Config):
    """A number of seeds that may be raised whenever one likes, as the test allows for that."""

    open: AtLeastThree
    """So many seeds for now. Raise the number as often as you like, and stop when you like: verdicts come from a t test
    that is valid at all times, and that decides less than the others with the same seeds."""


def _seeds_or_plan(value: object) -> object:
    if isinstance(value, dict):
        return parse(Looks if "looks" in value else Open, value, "seeds")
    return value if isinstance(value, Looks | Open) else _FIXED.validate_python(value)


_FIXED: TypeAdapter[tuple[int, ...]] = TypeAdapter(FixedSeeds)
Seeds = Annotated[tuple[int, ...] | Looks | Open, BeforeValidator(_seeds_or_plan)]


def all_seeds(seeds: tuple[int, ...] | Looks | Open) -> tuple[int, ...]:
    """Return the seeds of a study, of all its looks."""
    match seeds:
        case Looks():
            return tuple(range(seeds.first, seeds.first + seeds.looks[-1]))
        case Open():
            return tuple(range(seeds.open))
        case _:
            return seeds


def rule_of(seeds: tuple[int, ...] | Looks | Open) -> Rule:
    """Return how a study with these seeds may conclude."""
    return Rule(seeds.looks) if isinstance(seeds, Looks) else Rule(anytime=isinstance(seeds, Open))
