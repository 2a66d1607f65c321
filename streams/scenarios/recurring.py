"""SCoLe: long streams of random class subsets in which every class comes back now and then."""

from __future__ import annotations

import itertools
import math
from typing import Literal, final

import numpy as np
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Experience, Unit
from streams.plan import Plan
from streams.randomness import Key
from streams.source import Source

_MOST_SUBSETS = 1_000_000


class Config(BaseConfig):
    """Options of `recurring` (Lesort et al. 2023, arXiv 2207.04543)."""

    tasks: int = Field(100, ge=1)
    """Number of experiences."""
    classes_per_task: int = Field(2, ge=1)
    """Distinct classes in each, drawn without replacement and independently of the past."""
    classes: int | None = Field(None, ge=1)
    """Use only that many classes, drawn from the run's seed; null uses all."""
    samples_per_class: int | None = Field(None, ge=1)
    """Samples of each class in one experience, drawn anew each time; null takes all of them."""
    unevenness: float = Field(0.0, ge=0)
    """Exponent e of the class weights ((1 - s c) / N)^e, s = 0.05 (0.01 from 100 classes on); 0 is uniform."""
    max_gap: int | None = Field(None, ge=1)
    """Every class comes at least once in any that many experiences; null bounds nothing."""
    reduction: float = Field(1.0, ge=1)
    """Divide a class's weight by this each time it comes, so that what was just seen becomes rarer."""
    phases: Literal["one", "forgetting", "two-period"] = "one"
    """one: all classes may come all the time. forgetting: in the second half of the stream, only the first half of the
    classes. two-period: the first half of the classes in the first half of the stream, the others in the second."""
    classes_per_unit: int = Field(1, ge=1)
    """Classes, neighbours in the order of the source, that make one unit and always come together (the last unit has
    those that are left); `classes_per_task` is a multiple of it. Accuracies are reported for units, and a task in a
    request is one, so that streams of very many classes want more than one class in each."""
    subsets: float = Field(1.0, gt=0, le=1)
    """Share of all possible class subsets that ever occur, drawn at the start and then uniformly; 1 draws freely."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return the pre-drawn sequence of experiences, with one unit per class or per group of classes.

    The sequence is a function of the seed alone: strategies, replay and deletions cannot change it. Experiences whose
    classes are deleted come without them.

    Raises:
        ConfigError: the options cannot be met together.
    """
    key = Key(seed) / "recurring"
    classes = np.unique(source.class_ids[source.train_ids])
    count = config.classes or len(classes)
    if not config.classes_per_task <= count <= len(classes):
        raise ConfigError(
            f"scenario: classes_per_task={config.classes_per_task} and classes={count} must satisfy "
            f"classes_per_task <= classes <= {len(classes)} (the classes of {source.name!r})."
        )
    if config.classes_per_task % config.classes_per_unit:
        raise ConfigError(
            f"scenario.classes_per_unit: {config.classes_per_unit} classes come together, so that "
            f"classes_per_task={config.classes_per_task} must be a multiple of it."
        )
    classes = np.sort(classes[(key / "classes").order(classes)[:count]])
    groups = [classes[at : at + config.classes_per_unit] for at in range(0, count, config.classes_per_unit)]
    rows = {int(c): np.flatnonzero((source.class_ids == c) & ~source.is_test) for c in classes}
    experiences = []
    for task, units in enumerate(class_sequence(len(groups), config, key)):
        parts = [rows[int(c)] for unit in units for c in groups[unit]]
        if config.samples_per_class is not None:
            name = key / "samples" / task
            parts = [ids[name.order(ids)[: config.samples_per_class]] for ids in parts]
        named = tuple(sorted(units.tolist()))
        experiences.append(Experience(f"recurring-{task}", named, np.sort(np.concatenate(parts))))
    return Plan(source, tuple(_unit(source, group, i) for i, group in enumerate(groups)), tuple(experiences))


def _unit(source: Source, classes: np.ndarray, number: int) -> Unit:
    """Return what some classes are reported as."""
    name = f"class-{source.class_names[classes[0]]}" if len(classes) == 1 else f"unit-{number}"
    tests = np.flatnonzero(np.isin(source.class_ids, classes) & source.is_test)
    return Unit(name, tuple(classes.tolist()), tests)


def class_sequence(count: int, config: Config, key: Key) -> list[np.ndarray]:
    """Return which of `count` units come in each task, int64 arrays of so many positions as make its classes.

    Raises:
        ConfigError: a phase has too few classes, a gap is too short for them all, or subsets cannot be listed.
    """
    size, half = config.classes_per_task // config.classes_per_unit, count // 2
    early, late = np.arange(count), np.arange(count)
    if config.phases != "one":
        late = late[:half] if config.phases == "forgetting" else late[half:]
        early = early if config.phases == "forgetting" else early[:half]
    what = "classes" if config.classes_per_unit == 1 else "units"
    if min(len(early), len(late)) < size:
        raise ConfigError(
            f"scenario.phases: {config.phases!r} leaves {half} {what} in a half, fewer than the {size} of a task."
        )
    if config.max_gap is not None and size * config.max_gap < max(len(early), len(late)):
        raise ConfigError(
            f"scenario.max_gap: {len(early)} {what} cannot all come within {config.max_gap} experiences of {size} "
            f"{what}. Choose at least {math.ceil(len(early) / size)}."
        )
    if config.subsets < 1:
        return _from_subsets(early, late, config, key)
    weights = class_weights(count, config.unevenness, key / "weights")
    gaps = None if config.max_gap is None else _Deadlines(config.max_gap, early)
    sequence = []
    for task in range(config.tasks):
        allowed = late if _is_late(task, config) else early
        generator = (key / "task" / task).numpy()
        if gaps is None:
            p = weights[allowed] if len(allowed) == count else weights[allowed] / weights[allowed].sum()
            chosen = generator.choice(allowed, size, replace=False, p=p)
        else:
            due = gaps.due(task, allowed, size)
            rest = np.setdiff1d(allowed, due)
            p = weights[rest] / weights[rest].sum() if len(rest) else None
            drawn = generator.choice(rest, size - len(due), replace=False, p=p) if size > len(due) else due[:0]
            chosen = np.concatenate([due, drawn])
            gaps.came(task, chosen)
        if config.reduction > 1:
            weights[chosen] /= config.reduction
            # Of these alone: beside those that no longer come, all others would become 0 in a long stream.
            weights[allowed] /= weights[allowed].sum()
        sequence.append(chosen)
    return sequence


def _is_late(task: int, config: Config) -> bool:
    """Return whether a task, counted from 0, is of the second phase.

    As in the published code: "forgetting" turns when task > T / 2, "two-period" when task >= T / 2.
    """
    if config.phases == "two-period":
        return 2 * task >= config.tasks
    return config.phases == "forgetting" and 2 * task > config.tasks


@final
class _Deadlines:
    """When each class must come again, so that no gap grows too long and never too many are due at once."""

    def __init__(self, gap: int, classes: np.ndarray) -> None:
        self._gap = gap
        self._deadline = np.full(int(classes.max()) + 1, gap - 1)

    def due(self, task: int, allowed: np.ndarray, size: int) -> np.ndarray:
        """Return the classes that must come now, earliest deadline first.

        With k classes per task, at most k (h + 1) may be left with a deadline within h tasks; what is above must come.
        """
        if len(self._deadline) <= allowed.max():  # a second period begins, with classes of its own
            self._deadline = np.full(int(allowed.max()) + 1, task + self._gap - 1)
        order = allowed[np.argsort(self._deadline[allowed], kind="stable")]
        within = np.arange(1, len(order) + 1)
        horizon = np.maximum(self._deadline[order] - task, 0)
        return order[: max(int((within - size * horizon).max()), 0)]

    def came(self, task: int, classes: np.ndarray) -> None:
        self._deadline[classes] = task + self._gap


def _from_subsets(early: np.ndarray, late: np.ndarray, config: Config, key: Key) -> list[np.ndarray]:
    """Draw tasks uniformly from a fixed share of all subsets of classes."""
    if config.max_gap is not None or config.unevenness or config.reduction > 1:
        raise ConfigError("scenario.subsets: drawing from fixed subsets leaves unevenness, max_gap and reduction out.")
    fixed, size = {}, config.classes_per_task // config.classes_per_unit
    for name, classes in (("early", early), ("late", late)):
        total = math.comb(len(classes), size)
        if total > _MOST_SUBSETS:
            raise ConfigError(f"scenario.subsets: {total:,} possible subsets are too many to list; set it to 1.")
        every = np.array(list(itertools.combinations(classes, size)))
        kept = max(1, round(config.subsets * total))
        fixed[name] = every[np.sort((key / "subsets" / name).order(np.arange(total))[:kept])]
    sequence = []
    for task in range(config.tasks):
        subsets = fixed["late" if _is_late(task, config) else "early"]
        sequence.append(subsets[(key / "task" / task).numpy().integers(len(subsets))])
    return sequence


def class_weights(count: int, unevenness: float, key: Key) -> np.ndarray:
    """Return the sampling probabilities of `count` classes, float64 ``[count]``, shuffled over the classes.

    w_c = ((1 - s c) / N)^e for c = 0 .. N-1, with s = 0.05, or 0.01 from 100 classes on, and at most 1 / N so that
    no weight is negative. Drawing is without replacement, so that a class comes in less than k p_c of the tasks where
    p_c is large.
    """
    slope = min(0.01 if count >= 100 else 0.05, 1 / count)
    weights = ((1 - slope * np.arange(count)) / count) ** unevenness
    return (weights / weights.sum())[key.order(np.arange(count))]
