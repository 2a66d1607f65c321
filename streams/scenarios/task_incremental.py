"""New classes in every experience, and the model is always task-aware: outputs of other tasks are masked."""

from __future__ import annotations

from streams.plan import Plan
from streams.scenarios import class_incremental
from streams.source import Source


class Config(class_incremental.Config):
    """Options of `task-incremental`."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return one labelled experience and one unit per group of classes."""
    groups = class_incremental.class_groups(source, config.experiences, config.class_order, seed)
    return class_incremental.plan_of_groups(source, groups, labelled=True)
