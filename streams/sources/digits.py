"""1,797 handwritten digits of 8x8 pixels in 10 classes, shipped with scikit-learn: the embedded default."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.randomness import Key
from streams.source import Source, dirichlet_users, split_by_hash


class Config(BaseConfig):
    """Options of `digits`."""

    test_fraction: float = Field(0.25, gt=0, lt=1)
    """Share of each class held out for testing."""
    users: int = Field(20, ge=1)
    """Number of users the samples are assigned to (the data has none of its own)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""


def _file() -> Path:
    """Find the file that ``sklearn.datasets.load_digits`` reads; importing that takes longer than a small run."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


@functools.cache
def _table() -> np.ndarray:
    """Read the file, once for all runs of a process: ``[1797, 65]``, 64 pixels from 0 to 16 and the class of each."""
    table = np.loadtxt(_file(), delimiter=",")
    table.flags.writeable = False
    return table


def load(config: Config) -> Source:
    """Return the digits as float32 ``[1797, 64]`` in [0, 1]."""
    values = _table()
    class_ids = values[:, -1].astype(np.int64)
    key = Key(0) / "digits"
    return Source(
        name="digits",
        licence="UCI Optical Recognition of Handwritten Digits (CC BY 4.0), as shipped by scikit-learn (BSD-3-Clause)",
        x=torch.from_numpy(values[:, :-1].astype(np.float32) / 16.0),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=dirichlet_users(class_ids, config.users, config.alpha, key / "users"),
        is_test=split_by_hash(class_ids, config.test_fraction, key / "split"),
        class_names=tuple(str(c) for c in range(10)),
        user_names=tuple(f"user-{u}" for u in range(config.users)),
        notes=(f"users: assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per class",),
    )
