"""Your own data: an .npz file, a .csv file, or a folder of images with one sub-folder per class.

npz
    ``x`` ``[N, ...]`` and ``y`` ``[N]``; optional ``user`` ``[N]`` (numbers or text) and ``test`` ``[N]`` (booleans),
    and for regression ``stratum`` ``[N]`` (numbers or text).
    Images of uint8 are kept as bytes and divided by 255; other numbers are taken as they are, so normalise them by
    constants.
csv
    A header; the target is the column ``label`` or ``target``; optional columns ``user`` and ``split`` (``train`` or
    ``test``); every other column is a feature, and a number.
folder
    ``class/image.png``, or ``train/class/image.png`` and ``test/class/image.png``. Images are resized and scaled to
    [0, 1]. They are decoded once: the bytes are kept in ``$LIFELONG_CACHE/images``, and runs share them from there.

A sample's id is its row in the file; in a folder its place in the order of paths, training images first.
For a regression target a class is a stratum: the one that the file gives, or the targets are cut at their quantiles
into as many groups of equal size as `strata` says, so that class-scoped requests and streams have something to name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError, DataError
from streams.names import naturally
from streams.randomness import Key
from streams.source import Source, dirichlet_users, split_by_hash
from streams.sources._files import Table, read_csv, read_npz
from streams.sources._folders import read_folder


class Config(BaseConfig):
    """Options of `arrays`."""

    path: str
    """An .npz file, a .csv file, or a folder of images."""
    target: Literal["classification", "regression"] = "classification"
    """What is to be predicted: a class (numbers or text) or a real number."""
    test_fraction: float = Field(0.25, gt=0, lt=1)
    """Share of each class (or stratum) held out for testing, where the data does not say itself."""
    users: int = Field(20, ge=1)
    """Number of users the samples are assigned to, where the data names none."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""
    strata: int = Field(10, ge=2)
    """Regression: number of groups that the targets are cut into at their quantiles, where the data names none."""
    image_size: int = Field(32, ge=4, le=1024)
    """Folder: height and width in pixels that images are resized to."""
    grayscale: bool = False
    """Folder: one channel in place of three."""


def load(config: Config) -> Source:
    """Return the data at `path`; inputs of the shape that the file gives them.

    Raises:
        ConfigError: the kind of file is not known, or images are to be regressed.
        DataError: the data is missing or damaged, or its parts do not fit together.
    """
    table = _read(config)
    if config.target == "regression":
        y, class_ids, class_names = _strata(table, config.strata)
    else:
        if table.stratum is not None:
            raise DataError(
                f"{config.path}: the array 'stratum' is for regression. Set target: regression, or drop it."
            )
        class_ids, class_names = _classes(table)
        y = torch.from_numpy(class_ids)
    key = Key(0) / "arrays"
    if table.test is None:
        is_test, split = split_by_hash(class_ids, config.test_fraction, key / "split"), f"{config.test_fraction:g} held"
    else:
        is_test, split = table.test, "as given"
    if is_test.all() or not is_test.any():
        part, remedy = ("training", "fewer") if is_test.all() else ("test", "more")
        raise DataError(f"{config.path}: no {part} sample is left. Mark {remedy} rows as test, or add samples.")
    users, user_names, origin = _users(config, table, class_ids, key)
    source = Source(
        name="arrays",
        licence=f"the user's own data: {Path(config.path).name}",
        x=table.x,
        scale=table.scale,
        cached=table.cached,
        y=y,
        class_ids=class_ids,
        user_ids=users,
        is_test=is_test,
        class_names=class_names,
        user_names=user_names,
        notes=(f"users: {origin}", f"split: {split}", *table.notes),
    )
    if table.cached is not None:
        source.keep_digest(table.cached)
    return source


def _read(config: Config) -> Table:
    path = Path(config.path).expanduser()
    if path.is_dir():
        if config.target == "regression":
            raise ConfigError("target: 'regression' needs an .npz or a .csv file; a folder of images names classes.")
        return read_folder(path, config.image_size, config.grayscale)
    if not path.exists():
        raise DataError(f"path: {config.path!r} does not exist. Name an .npz file, a .csv file or a folder of images.")
    match path.suffix.lower():
        case ".npz":
            return read_npz(path)
        case ".csv":
            return read_csv(path)
    raise ConfigError(f"path: {config.path!r} is neither an .npz file, nor a .csv file, nor a folder of images.")


def _classes(table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class ids and names, in ascending order; numbers in text count as numbers (`class-10` after `class-9`)."""
    y = table.y
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.floor(y))
        if not whole.all():
            wrong = int(np.flatnonzero(~whole)[0])
            raise DataError(f"{table.where(wrong)}: {y[wrong]} is no class. Did you mean `target: regression`?")
        y = y.astype(np.int64)
    names, class_ids = _named(y)
    if len(names) < 2:
        raise DataError(f"{table.path}: every sample is of class {names[0]}; there is nothing to tell apart.")
    return class_ids, names


def _named(column: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names in a column, and int64 ``[N]`` places in them; numbers count as numbers, also within text."""
    values, places = np.unique(column, return_inverse=True)
    names = [str(value) for value in values]
    order = list(range(len(names)))
    if column.dtype.kind == "U":
        order.sort(key=lambda i: naturally(names[i]))
    return tuple(names[i] for i in order), np.argsort(order)[places].astype(np.int64)


def _strata(table: Table, strata: int) -> tuple[torch.Tensor, np.ndarray, tuple[str, ...]]:
    """Return the targets, their stratum and the strata's names; strata that ties leave empty are dropped."""
    if table.y.dtype.kind not in "fiub":
        raise DataError(f"{table.where(0)}: {str(table.y[0])!r} is no number. Did you mean `target: classification`?")
    y = table.y.astype(np.float64)
    if not np.isfinite(y).all():
        wrong = int(np.flatnonzero(~np.isfinite(y))[0])
        raise DataError(f"{table.where(wrong)}: the target {y[wrong]} is not finite. Remove the row or fill it in.")
    if table.stratum is not None:
        names, class_ids = _named(table.stratum)
        return torch.from_numpy(y.astype(np.float32)), class_ids, names
    inner = np.unique(np.quantile(y, np.arange(1, strata) / strata))
    used, class_ids = np.unique(np.searchsorted(inner, y, side="right"), return_inverse=True)
    edges = [-np.inf, *inner, np.inf]
    names = tuple(f"[{edges[s]:.4g}, {edges[s + 1]:.4g})" for s in used)
    return torch.from_numpy(y.astype(np.float32)), class_ids.astype(np.int64), names


def _users(config: Config, table: Table, class_ids: np.ndarray, key: Key) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Return user ids, user names and where they come from."""
    if table.user is not None:
        names, ids = _named(table.user)
        return ids, names, "as given"
    ids = dirichlet_users(class_ids, config.users, config.alpha, key / "users")
    origin = f"assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per class"
    return ids, tuple(f"user-{u}" for u in range(config.users)), origin
