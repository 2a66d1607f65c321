"""What every method declares to be tuned exists, is accepted at both ends, and holds what is published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from contract.candidates import class_named

from strategies import base
from strategies.ranges import Range, Space
from streams.config import Config, parse
from streams.registry import entries, load

PARTS = [(kind, name) for kind in ("learners", "unlearners", "guards", "isolated") for name in entries(kind)]
STRENGTH = re.compile(r"lr|lr_.*|.*_lr|strength|alpha|beta|gamma|epochs|steering|density")
MOST = 6
"""Options that a method may declare: with more, thirty trials find little."""


def numbers(config: type[Config]) -> list[str]:
    """Names of the options that are numbers and decide how strongly a method acts."""
    fields = {name: {f.annotation, *get_args(f.annotation)} for name, f in config.model_fields.items()}
    return [name for name, types in fields.items() if STRENGTH.fullmatch(name) and types & {int, float}]


def ends(space: Space) -> list[Any]:
    return [space.at(0.0), space.at(1.0)] if isinstance(space, Range) else list(space)


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_declared_ranges_are_accepted_and_hold_the_default(kind: str, name: str) -> None:
    config, ranges = load(kind, name).Config, class_named(kind, name).ranges
    assert isinstance(ranges, Mapping)
    assert len(ranges) <= MOST
    for option, space in ranges.items():
        assert option in config.model_fields, f"{name} has no option {option}"
        default = config.model_fields[option].get_default(call_default_factory=True)
        for value in ends(space):
            parsed = getattr(parse(config, {option: value}), option)
            assert parsed == value
            assert type(parsed) is type(default), f"{option}: {value!r} is not of the kind of {default!r}"
        assert space.has(default) if isinstance(space, Range) else default in space
        if isinstance(space, Range):
            assert ends(space) == [space.low, space.high]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_what_decides_strength_is_declared(kind: str, name: str) -> None:
    part = class_named(kind, name)
    declares = any("ranges" in vars(c) for c in part.__mro__ if c.__module__ != base.__name__)
    assert declares or not numbers(load(kind, name).Config), f"{name}: declare `ranges`, or say that there are none"
