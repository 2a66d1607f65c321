"""All data at once: the upper bound that every stream is held against."""

from __future__ import annotations

import numpy as np

from streams.config import Config as BaseConfig
from streams.events import Experience, Unit
from streams.plan import Plan
from streams.source import Source


class Config(BaseConfig):
    """`joint` has no options."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return a single experience that holds every training sample, with one unit per class."""
    return Plan(source, class_units(source), (Experience("joint", tuple(range(source.num_classes)), source.train_ids),))


def class_units(source: Source) -> tuple[Unit, ...]:
    """Return one unit per class of the source."""
    return tuple(
        Unit(f"class-{name}", (c,), np.flatnonzero((source.class_ids == c) & source.is_test))
        for c, name in enumerate(source.class_names)
    )
