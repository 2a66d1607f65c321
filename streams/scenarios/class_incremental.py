"""New classes in every experience; one head over all classes, and the model is not task-aware."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Experience, Unit
from streams.plan import Plan
from streams.randomness import Key
from streams.source import Source


class Config(BaseConfig):
    """Options of `class-incremental`."""

    experiences: int = Field(5, ge=1)
    """Number of experiences; classes that do not divide are spread, one more in each of the first experiences."""
    class_order: Literal["natural", "shuffled"] = "natural"
    """Order in which classes arrive; `shuffled` draws it from the run's seed."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return one experience and one unit per group of classes."""
    return plan_of_groups(source, class_groups(source, config.experiences, config.class_order, seed))


def class_groups(source: Source, count: int, order: str, seed: int) -> list[np.ndarray]:
    """Split the classes that have training data into `count` groups whose sizes differ by at most one.

    Raises:
        ConfigError: there are fewer classes than groups.
    """
    classes = np.unique(source.class_ids[source.train_ids])
    if len(classes) < count:
        raise ConfigError(f"scenario.experiences: {count} is more than the {len(classes)} classes of {source.name!r}.")
    if order == "shuffled":
        classes = classes[(Key(seed) / "class-order").order(classes)]
    return [np.sort(g) for g in np.array_split(classes, count)]


def plan_of_groups(source: Source, groups: list[np.ndarray], labelled: bool = False) -> Plan:
    """Return a plan with one experience and one unit per group of classes.

    Args:
        source: the data.
        groups: disjoint arrays of class ids.
        labelled: whether the model is task-aware, with the group as its task label.
    """
    units, experiences = [], []
    task_of = np.zeros(len(source), dtype=np.int64)
    for index, group in enumerate(groups):
        member = np.isin(source.class_ids, group)
        task_of[member] = index
        units.append(Unit(f"task-{index}", tuple(group.tolist()), np.flatnonzero(member & source.is_test)))
        ids = np.flatnonzero(member & ~source.is_test)
        experiences.append(Experience(f"task-{index}", (index,), ids, index if labelled else None))
    return Plan(source, tuple(units), tuple(experiences), task_of if labelled else None)
