"""The same classes in changing domains: pixels permuted, images rotated, or the source's own domains (font faces)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import Experience, Unit
from streams.plan import Plan
from streams.randomness import Key
from streams.source import Source


class Config(BaseConfig):
    """Options of `domain-incremental`."""

    kind: Literal["permuted", "rotated", "natural"] = "permuted"
    """What changes; `natural` takes the source's own domains (the font face of `glyphs`)."""
    domains: int | None = Field(None, ge=1)
    """Number of domains; null means 5, or for `natural` all there are."""
    overlap: bool = True
    """Whether every sample appears in every domain (as published), as a sample of its own with its own id;
    otherwise each sample goes to one domain, drawn by its id, and keeps its id."""
    visits: int = Field(1, ge=1)
    """How often every domain comes, in turns, each time with another part of its samples, drawn by their ids."""
    units: Literal["domain", "class"] = "domain"
    """What accuracy is reported for: each domain, or each class over all domains (the skills of `instructions`). A
    request by task deletes every domain that teaches the unit; to delete one class, ask by class."""
    task_labels: bool = False
    """Whether the model is task-aware, with the domain as its task label."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return one experience per domain and visit, and a unit per domain or class.

    Domain 0 of permuted and rotated is the data as it is.

    Raises:
        ConfigError: the source has no such domains, its inputs are tokens that cannot be permuted or rotated, or task
            labels are wanted beside units that are classes.
    """
    if config.units == "class" and config.task_labels:
        raise ConfigError("scenario.units: 'class' has no task labels; set task_labels: false, or units: domain.")
    if config.kind != "natural" and source.text is not None:
        raise ConfigError(
            f"scenario.kind: {config.kind!r} changes pixels, and {source.name!r} is text. Use kind: natural with a "
            f"source that has domains of its own, or another scenario (class-incremental)."
        )
    if config.kind == "natural":
        domain_of, names = _natural(source, config)
        with_domains = source
    else:
        count = config.domains or 5
        names = [f"{config.kind}-{d}" for d in range(count)]
        kept = source.unpacked() if config.kind == "rotated" else source  # between pixels there are no bytes
        with_domains, domain_of = _spread(kept, count, config.overlap, Key(seed) / "domain-of")
        x = with_domains.x.clone()
        for d in range(1, count):
            rows = torch.from_numpy(np.flatnonzero(domain_of == d))
            x[rows] = (
                _permute(x[rows], Key(seed) / "permutation" / d)
                if config.kind == "permuted"
                else _rotate(x[rows], 180.0 * d / count)
            )
        note = f"domains: {config.kind}, {count}; sample id = domain x {len(source)} + id in {source.name!r}"
        with_domains = replace(
            with_domains,
            x=x,
            domain_ids=domain_of,
            domain_names=tuple(names),
            notes=(*with_domains.notes, note) if config.overlap else with_domains.notes,
        )
    units = _units(with_domains, domain_of, names, config)
    visit_of = (Key(seed) / "visit").priorities(np.arange(len(with_domains))) % np.uint64(config.visits)
    experiences = []
    for visit, (d, name) in itertools.product(range(config.visits), enumerate(names)):
        train = np.flatnonzero((domain_of == d) & ~with_domains.is_test & (visit_of == visit))
        if config.visits > 1 and not len(train):
            continue
        classes = set(with_domains.class_ids[train].tolist())
        unit_numbers = (
            (d,) if config.units == "domain" else tuple(i for i, u in enumerate(units) if set(u.classes) <= classes)
        )
        called = name if config.visits == 1 else f"{name}-{visit}"
        experiences.append(Experience(called, unit_numbers, train, d if config.task_labels else None))
    return Plan(with_domains, units, tuple(experiences), domain_of if config.task_labels else None)


def _units(source: Source, domain_of: np.ndarray, names: list[str], config: Config) -> tuple[Unit, ...]:
    if config.units == "class":
        there = domain_of >= 0
        taught = np.unique(source.class_ids[there & ~source.is_test]).tolist()
        tests = {c: np.flatnonzero((source.class_ids == c) & there & source.is_test) for c in taught}
        return tuple(Unit(source.class_names[c], (c,), test) for c, test in tests.items())
    units = []
    for d, name in enumerate(names):
        classes = np.unique(source.class_ids[domain_of == d])
        units.append(Unit(name, tuple(classes.tolist()), np.flatnonzero((domain_of == d) & source.is_test)))
    return tuple(units)


def _natural(source: Source, config: Config) -> tuple[np.ndarray, list[str]]:
    if source.domain_ids is None:
        raise ConfigError(
            f"scenario.kind: {source.name!r} has no domains of its own. Use kind: permuted or rotated, or a source "
            f"that has them (glyphs)."
        )
    trained = np.unique(source.domain_ids[~source.is_test])
    count = config.domains or len(trained)
    if count > len(trained):
        raise ConfigError(f"scenario.domains: {count} is more than the {len(trained)} domains of {source.name!r}.")
    place = np.full(int(source.domain_ids.max()) + 1, -1)
    place[trained[:count]] = np.arange(count)
    names = source.domain_names or tuple(f"domain-{d}" for d in range(len(place)))
    return place[source.domain_ids], [names[d] for d in trained[:count]]


def _spread(source: Source, count: int, overlap: bool, key: Key) -> tuple[Source, np.ndarray]:
    """Return the source with one row per (domain, sample), or each sample in one domain, and the domain of each row."""
    n = len(source)
    if not overlap:
        return source, (key.priorities(np.arange(n)) % np.uint64(count)).astype(np.int64)
    copies = [count] + [1] * (source.x.ndim - 1)
    return (
        replace(
            source,
            x=source.x.repeat(copies),
            y=source.y.repeat(count),
            class_ids=np.tile(source.class_ids, count),
            user_ids=np.tile(source.user_ids, count),
            is_test=np.tile(source.is_test, count),
            domain_ids=None,
        ),
        np.repeat(np.arange(count), n),
    )


def _permute(x: torch.Tensor, key: Key) -> torch.Tensor:
    """Apply one fixed permutation to the pixels of all rows."""
    flat = x.flatten(1)
    order = torch.from_numpy(key.order(np.arange(flat.shape[1])))
    return flat[:, order].view_as(x)


def _rotate(x: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate square images, ``[N, C, H, W]`` or flat ``[N, H * H]``, bilinearly about their centre."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    side = round(x[0].numel() ** 0.5)
    if x.ndim == 2 and side * side != x.shape[1]:
        raise ConfigError(
            f"scenario.kind: rows of {x.shape[1]} values are not square images and cannot be rotated. Use kind: "
            f"permuted."
        )
    images = x if x.ndim == 4 else x.view(len(x), 1, side, side)
    return rotate(images, degrees, interpolation=InterpolationMode.BILINEAR).view_as(x)
