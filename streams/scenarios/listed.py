"""Experiences that a file lists: which samples come together, in which order; `lifelong.stream` writes such files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.events import Experience, Unit
from streams.plan import Plan
from streams.source import Source


class Config(BaseConfig):
    """Options of `listed`."""

    path: str
    """A .json file: `{"experiences": [{"name": "spring", "samples": [0, 1, 5]}, ...]}`, with numbers of training
    samples. An experience that teaches classes which none before it taught adds a unit of its name: the test samples of
    these classes."""


class ListedExperience(BaseConfig):
    """One experience of the file."""

    name: str = Field(min_length=1)
    """What it is called; all its randomness hangs on that."""
    samples: tuple[int, ...] = Field(min_length=1)
    """Numbers of its training samples."""


class Listed(BaseConfig):
    """What the file holds."""

    experiences: tuple[ListedExperience, ...] = Field(min_length=1)
    """In the order in which they are learned."""


def build(source: Source, config: Config, seed: int) -> Plan:
    """Return the experiences of the file, with a unit for each that teaches new classes.

    Raises:
        DataError: the file is missing or damaged, or names what is no training sample.
    """
    path = Path(config.path).expanduser()
    try:
        listed = Listed.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # a ValidationError is a ValueError
        told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, told["loc"]))
        raise DataError(f"scenario.path: {path}{f', {where}' if where else ''}: {told['msg']}.") from error
    names = [e.name for e in listed.experiences]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"scenario.path: {path} has two experiences called {twice!r}. Each needs a name of its own.")
    unit_of: dict[int, int] = {}
    units: list[Unit] = []
    experiences = []
    for e in listed.experiences:
        ids = _ids(source, e, path)
        classes = np.unique(source.class_ids[ids]).tolist()
        new = [c for c in classes if c not in unit_of]
        if new:
            unit_of |= dict.fromkeys(new, len(units))
            tests = np.flatnonzero(np.isin(source.class_ids, new) & source.is_test)
            units.append(Unit(e.name, tuple(new), tests))
        experiences.append(Experience(e.name, tuple(sorted({unit_of[c] for c in classes})), ids))
    return Plan(source, tuple(units), tuple(experiences))


def _ids(source: Source, experience: ListedExperience, path: Path) -> np.ndarray:
    """Return the samples of an experience, ascending."""
    ids = np.unique(np.array(experience.samples, dtype=np.int64))
    where = f"scenario.path: {path}, {experience.name!r}"
    if len(ids) < len(experience.samples):
        raise DataError(f"{where} lists a sample twice.")
    if ids[0] < 0 or ids[-1] >= len(source):
        wrong = int(ids[0] if ids[0] < 0 else ids[-1])
        raise DataError(f"{where} lists sample {wrong}; {source.name!r} has samples 0 to {len(source) - 1}.")
    if source.is_test[ids].any():
        wrong = int(ids[source.is_test[ids]][0])
        raise DataError(f"{where} lists sample {wrong}, which is a test sample: it is never learned.")
    return ids
