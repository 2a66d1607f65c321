"""SCoLe: long streams of random class subsets in which every class comes back now and then."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Experience
from streams.plan import Plan
from streams.randomness import Key
from streams.scenarios.joint import class_units
from streams.source import Source


class Config(BaseConfig):
    """Options of `recurring` (Lesort et al. 2023, arXiv 2207.04543)."""

    tasks: int = Field(100, ge=1)
    """Number of experiences."""
    classes_per_task: int = Field(2, ge=1)
    """Distinct classes in each, drawn without replacement and independently of the past."""
    classes: int | None = Field(None, ge=1)
    """Use only that many classes, drawn from the run's seed; null uses all."""
    unevenness: float = Field(0.0, ge=0)
    """Exponent e of the class weights ((1 - s c) / N)^e, s = 0.05 (0.01 from 100 classes on); 0 is uniform."""
    samples_per_class: int | None = Field(None, ge=1)
    """Samples of each class in one experience, drawn anew each time; null takes all of them."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return the pre-drawn sequence of experiences, with one unit per class.

    The sequence is a function of the seed alone: strategies, replay and deletions cannot change it.
    """
    key = Key(seed) / "recurring"
    classes = np.unique(source.class_ids[source.train_ids])
    count = config.classes or len(classes)
    if not config.classes_per_task <= count <= len(classes):
        raise ConfigError(
            f"scenario: classes_per_task={config.classes_per_task} and classes={count} must satisfy "
            f"classes_per_task <= classes <= {len(classes)} (the classes of {source.name!r})."
        )
    classes = np.sort(classes[(key / "classes").order(classes)[:count]])
    weights = class_weights(count, config.unevenness, key / "weights")
    experiences = []
    for task in range(config.tasks):
        chosen = (key / "task" / task).numpy().choice(classes, config.classes_per_task, replace=False, p=weights)
        ids = np.concatenate([_some(source, int(c), config.samples_per_class, key / "samples" / task) for c in chosen])
        units = tuple(sorted(int(c) for c in chosen))
        experiences.append(Experience(f"recurring-{task}", units, np.sort(ids)))
    return Plan(source, class_units(source), tuple(experiences))


def class_weights(count: int, unevenness: float, key: Key) -> np.ndarray:
    """Return the sampling probabilities of `count` classes, float64 ``[count]``, shuffled over the classes.

    w_c = ((1 - s c) / N)^e for c = 0 .. N-1, with s = 0.05, or 0.01 from 100 classes on, and at most 1 / N so that
    no weight is negative.
    """
    slope = min(0.01 if count >= 100 else 0.05, 1 / count)
    weights = ((1 - slope * np.arange(count)) / count) ** unevenness
    return (weights / weights.sum())[key.order(np.arange(count))]


def _some(source: Source, class_id: int, limit: int | None, key: Key) -> np.ndarray:
    ids = np.flatnonzero((source.class_ids == class_id) & ~source.is_test)
    return ids if limit is None else ids[key.order(ids)[:limit]]
