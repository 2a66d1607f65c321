"""Classes arrive in order but in small chunks, each its own experience; with one epoch every sample is seen once."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from streams.events import Experience
from streams.plan import Plan
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.source import Source


class Config(class_incremental.Config):
    """Options of `online`."""

    chunk: int = Field(10, ge=1)
    """Samples per experience; the last chunk of a group may be smaller."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return the chunks of every group of classes, in order, with one unit per group."""
    groups = class_incremental.class_groups(source, config.experiences, config.class_order, seed)
    offline = class_incremental.plan_of_groups(source, groups)
    experiences = []
    for experience in offline.experiences:
        ids = experience.sample_ids
        shuffled = ids[(Key(seed) / "chunks" / experience.name).order(ids)]
        for start in range(0, len(ids), config.chunk):
            name = f"{experience.name}.chunk-{start // config.chunk}"
            chunk = np.sort(shuffled[start : start + config.chunk])
            experiences.append(Experience(name, experience.units, chunk))
    return Plan(source, offline.units, tuple(experiences))
