"""Read tables from .npz and .csv files, for the source `arrays`."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streams.errors import DataError, closest
from streams.inputs import Scale, scale

_ARRAYS = ("x", "y", "user", "test", "stratum")
_CHECKED = 65_536  # rows at once


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows as a file gives them.

    Attributes:
        path: where they come from.
        x: float32 ``[N, ...]``, finite; or uint8, where there is a scale.
        y: ``[N]`` numbers or text.
        user: ``[N]`` numbers or text, or None.
        test: bool ``[N]``, or None.
        lines: int64 ``[N]`` line of each row in a text file, or None.
        notes: what a manifest must say.
        scale: see `streams.source.Source`.
        cached: likewise.
        stratum: ``[N]`` numbers or text, of a regression target, or None.
    """

    path: Path
    x: torch.Tensor
    y: np.ndarray
    user: np.ndarray | None = None
    test: np.ndarray | None = None
    lines: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    scale: Scale | None = None
    cached: Path | None = None
    stratum: np.ndarray | None = None

    def where(self, row: int) -> str:
        """Return how a message names a row."""
        return f"{self.path}, row {row}" if self.lines is None else f"{self.path}, line {self.lines[row]}"


def read_npz(path: Path) -> Table:
    """Read ``x``, ``y`` and, where present, ``user``, ``test`` and ``stratum``.

    Raises:
        DataError: not such a file, an array is missing, or the arrays do not fit together.
    """
    try:
        if not zipfile.is_zipfile(path):  # of which numpy says that it may hold a pickle
            raise zipfile.BadZipFile("it is no zip file, as .npz files are")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}). Write it with numpy.savez(path, x=x, y=y), no arrays of objects."
        ) from error
    for name in set(arrays) - set(_ARRAYS):
        raise DataError(f"{path}: the array {name!r} means nothing. {closest(name, _ARRAYS)}")
    for name in ("x", "y"):
        if name not in arrays:
            raise DataError(f"{path}: the array {name!r} is missing. Write numpy.savez(path, x=x, y=y).")
    x = arrays["x"]
    if x.ndim < 2 or not len(x) or x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x is {x.dtype} {x.shape}; it must hold numbers, [samples, features ...].")
    for name, value in arrays.items():
        if name != "x" and value.shape != (len(x),):
            raise DataError(
                f"{path}: {name} has the shape {value.shape}; x has {len(x)} rows, so it must be ({len(x)},)."
            )
        if value.dtype.kind not in "fiubU":
            raise DataError(f"{path}: {name} is {value.dtype}; it must hold numbers or text.")
        if value.dtype.kind == "U" and len(bare := np.flatnonzero(np.char.strip(value) == "")):
            raise DataError(f"{path}, row {bare[0]}: {name} is empty. Fill it in, or remove the row.")
    user = arrays.get("user")
    if user is not None and user.dtype.kind == "f" and len(bare := np.flatnonzero(~np.isfinite(user))):
        raise DataError(f"{path}, row {bare[0]}: user is {user[bare[0]]}. Fill it in, or remove the row.")
    test = arrays.get("test")
    if test is not None and not np.isin(test, (0, 1)).all():
        raise DataError(f"{path}: test is {test.dtype} with other values than true and false.")
    is_bytes = x.dtype == np.uint8
    return Table(
        path,
        torch.from_numpy(x) if is_bytes else _finite(path, x),
        arrays["y"],
        arrays.get("user"),
        None if test is None else test.astype(bool),
        scale=scale() if is_bytes else None,
        stratum=arrays.get("stratum"),
    )


def read_csv(path: Path) -> Table:
    """Read a file with a header; see `streams.sources.arrays` for its columns.

    Raises:
        DataError: a column is missing, a row is too short or too long, or a value is not a number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 comma-separated values ({error}).") from error
    if len(rows) < 2:
        raise DataError(f"{path}: has no rows. It needs a header and one line per sample.")
    header, body = _header(path, rows[0][1]), rows[1:]
    for line, row in body:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: has {len(row)} values; the header has {len(header)} columns.")
    lines = np.array([line for line, _ in body])
    columns = {name: [row[i].strip() for _, row in body] for i, name in enumerate(header)}
    for name in set(columns) & {"label", "target", "user", "split"}:
        for line, cell in zip(lines, columns[name], strict=True):
            if not cell:
                raise DataError(f"{path}, line {line}, column {name!r}: is empty. Fill it in, or remove the line.")
    features = [name for name in header if name not in ("label", "target", "user", "split")]
    return Table(
        path,
        torch.from_numpy(np.stack([_numbers(path, lines, name, columns[name]) for name in features], axis=1)),
        _numbers_or_text(columns["label" if "label" in columns else "target"]),
        _names(columns["user"]) if "user" in columns else None,
        _is_test(path, lines, columns["split"]) if "split" in columns else None,
        lines,
        notes=(f"features: {', '.join(features)}",),
    )


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    header = [name.strip() for name in cells]
    targets = [name for name in header if name in ("label", "target")]
    features = [name for name in header if name not in ("label", "target", "user", "split")]
    if len(set(header)) != len(header):
        raise DataError(f"{path}: a column occurs twice in {header}. Rename one.")
    if len(targets) != 1 or not features:
        raise DataError(
            f"{path}: the columns {header} need exactly one of 'label' and 'target', and one or more features."
            f"{_remedy(header)}"
        )
    return header


def _remedy(header: Sequence[str]) -> str:
    """Return what the likeliest mistakes of a header need."""
    if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
        return f" Columns are separated by commas, not by {other!r}."
    miswritten = [name for name in header if name.lower() in ("label", "target")]
    return f" Write {miswritten[0]!r} in small letters." if len(miswritten) == 1 else ""


def _finite(path: Path, given: np.ndarray) -> torch.Tensor:
    with np.errstate(over="ignore"):  # it becomes infinity, and is refused
        x = given.astype(np.float32, copy=False)
    parts = range(0, len(x), _CHECKED)
    finite = [np.isfinite(x[start : start + _CHECKED]).reshape(-1, x[0].size).all(1) for start in parts]
    wrong = np.flatnonzero(~np.concatenate(finite))
    if len(wrong):
        what = "is too large for float32" if np.isfinite(given[wrong[0]]).all() else "is not finite"
        raise DataError(f"{path}, row {wrong[0]}: x {what} ({len(wrong)} rows). Remove them or fill them in.")
    return torch.from_numpy(np.ascontiguousarray(x))


def _numbers(path: Path, lines: np.ndarray, name: str, cells: Sequence[str]) -> np.ndarray:
    for line, cell in zip(lines, cells, strict=True):
        try:
            good = bool(np.isfinite(float(cell)))
        except ValueError:
            good = False
        if not good:
            raise DataError(f"{path}, line {line}, column {name!r}: {cell!r} is not a finite number.")
    return np.array([float(cell) for cell in cells], dtype=np.float32)


def _numbers_or_text(cells: Sequence[str]) -> np.ndarray:
    """Return integers if all are, else numbers if all are, else text: class 10 comes after class 9."""
    for kind in (int, float):
        try:
            return np.array([kind(cell) for cell in cells])
        except ValueError:
            continue
    return np.array(cells)


def _names(cells: Sequence[str]) -> np.ndarray:
    """Return integers if all are written as such, else text: ``007`` and ``7`` are two."""
    try:
        are_numbers = all(str(int(cell)) == cell for cell in cells)
    except ValueError:
        are_numbers = False
    return np.array([int(cell) for cell in cells] if are_numbers else cells)


def _is_test(path: Path, lines: np.ndarray, cells: Sequence[str]) -> np.ndarray:
    for line, cell in zip(lines, cells, strict=True):
        if cell not in ("train", "test"):
            raise DataError(f"{path}, line {line}, column 'split': {cell!r} is not allowed. Allowed: train, test.")
    return np.array([cell == "test" for cell in cells])
