"""A finished table as columns of numbers, beside the lines it was made of: a thousand of them load in seconds.

The file holds one line of JSON (the length of the lines it was made of, the strings, and the types of the numbers, each
as small as they allow), then fixed-size records.
It can always be made again, is used only if it fits the lines, and is never the only copy of anything.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.files import write_atomically
from lifelong.results.table import Fields, Row, read_fields, read_rows

_NAMES = ("model", "subject", "metric", "reason")


def write_columns(lines: Path) -> None:
    """Write the columns of a table that nothing will be added to."""
    fields = dict(zip(Row.__slots__, zip(*read_fields(lines), strict=True), strict=False))
    strings: dict[str, list[str | None]] = {}
    columns = {"value": np.array([np.nan if v is None else v for v in fields.get("value", ())], dtype="<f8")}
    columns |= {name: _smallest(fields.get(name, ())) for name in ("event", "n")}
    for name in _NAMES:
        known = {text: code for code, text in enumerate(dict.fromkeys(fields.get(name, ())))}
        strings[name], columns[name] = list(known), _smallest([known[text] for text in fields.get(name, ())])
    types = {name: column.dtype.str for name, column in columns.items()}
    records = np.empty(len(columns["value"]), dtype=list(types.items()))
    for name, column in columns.items():
        records[name] = column
    head = json.dumps({"lines": lines.stat().st_size, "strings": strings, "types": types})
    write_atomically(_columns_file(lines), head.encode() + b"\n" + records.tobytes())


def _smallest(values: Sequence[int]) -> np.ndarray:
    """Return integers in the smallest type that holds them all."""
    whole = np.array(values, dtype="<i8")
    ends = (whole.min(), whole.max()) if len(whole) else (0,)
    return whole.astype(np.result_type(*map(np.min_scalar_type, ends)).newbyteorder("<"))


def read_columns(lines: Path) -> dict[str, list[Any]]:
    """Return a table as columns, by the names of `Row`'s fields."""
    stored = _read(lines)
    if stored is None:
        rows = read_fields(lines)
        return {name: list(column) for name, column in zip(Row.__slots__, zip(*rows, strict=True), strict=False)}
    return _columns(*stored)


def read_some(lines: Path, metrics: Collection[str] | None) -> list[Row]:
    """Return the rows of some metrics, or all."""
    stored = _read(lines)
    if stored is None:
        return read_rows(lines, metrics)
    records, strings = stored
    if metrics is not None:
        codes = [code for code, name in enumerate(strings.get("metric", [])) if name in metrics]
        records = records[np.isin(records["metric"], codes)]
    columns = _columns(records, strings)
    rows: Iterable[Fields] = zip(*(columns[name] for name in Row.__slots__), strict=True)
    return [Row(*fields) for fields in rows]


def _columns(records: np.ndarray, strings: dict[str, list[str | None]]) -> dict[str, list[Any]]:
    value = records["value"].astype(object)
    value[np.isnan(records["value"])] = None
    columns = {"event": records["event"].tolist(), "n": records["n"].tolist(), "value": value.tolist()}
    for name in _NAMES:
        columns[name] = np.array(strings.get(name, []), dtype=object)[records[name]].tolist()
    return {name: columns[name] for name in Row.__slots__}


def _read(lines: Path) -> tuple[np.ndarray, dict[str, list[str | None]]] | None:
    """Return records and strings, or None if there are none that fit the lines."""
    try:
        head, _, content = _columns_file(lines).read_bytes().partition(b"\n")
        about = json.loads(head)
        if about["lines"] != lines.stat().st_size:
            return None
        return np.frombuffer(content, dtype=list(about["types"].items())), about["strings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _columns_file(lines: Path) -> Path:
    return lines.with_name("columns.bin")
