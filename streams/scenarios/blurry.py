"""Class-incremental with blurred borders: a share of every class arrives outside the experience it belongs to."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from streams.errors import ConfigError
from streams.events import Experience
from streams.plan import Plan
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.source import Source


class Config(class_incremental.Config):
    """Options of `blurry`."""

    blur: float = Field(0.1, ge=0, le=1)
    """Share of each class's training samples that arrives in other experiences (Bang et al. 2021: 10 or 30 %)."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return as many experiences as groups; each sample that strays goes to another experience, drawn by its id."""
    if config.experiences < 2:
        raise ConfigError("scenario.experiences: blurry needs at least 2 experiences for samples to stray between.")
    groups = class_incremental.class_groups(source, config.experiences, config.class_order, seed)
    sharp = class_incremental.plan_of_groups(source, groups)
    key = Key(seed) / "blur"
    home = np.full(len(source), -1)
    for index, experience in enumerate(sharp.experiences):
        home[experience.sample_ids] = index
    place = home.copy()
    offset = 1 + (key / "where").priorities(np.arange(len(source))) % np.uint64(config.experiences - 1)
    for c in np.unique(source.class_ids[source.train_ids]):
        ids = np.flatnonzero((source.class_ids == c) & ~source.is_test)
        stray = ids[(key / "who").order(ids)[: round(config.blur * len(ids))]]
        place[stray] = (home[stray] + offset[stray].astype(np.int64)) % config.experiences
    experiences = []
    for index in range(config.experiences):
        ids = np.flatnonzero(place == index)
        experiences.append(Experience(f"task-{index}", (index,), ids))
    return Plan(source, sharp.units, tuple(e for e in experiences if len(e.sample_ids)))
