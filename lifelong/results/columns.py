"""A finished table as columns of numbers, beside the lines it was made of: a thousand of them load in seconds.

The file holds one line of JSON (the length of the lines it was made of, and the strings), then fixed-size records.
It can always be made again, is used only if it fits the lines, and is never the only copy of anything.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.files import write_atomically
from lifelong.results.table import Fields, Row, read_fields, read_rows

_NAMES = ("model", "subject", "metric", "reason")
_RECORD = np.dtype([("event", "<i4"), ("n", "<i8"), ("value", "<f8"), *((name, "<i4") for name in _NAMES)])


def write_columns(lines: Path) -> None:
    """Write the columns of a table that nothing will be added to."""
    rows = read_fields(lines)
    records = np.empty(len(rows), dtype=_RECORD)
    strings: dict[str, list[str | None]] = {}
    if rows:
        event, model, subject, metric, value, n, reason = zip(*rows, strict=True)
        records["event"], records["n"] = event, n
        records["value"] = [np.nan if v is None else v for v in value]
        for name, column in zip(_NAMES, (model, subject, metric, reason), strict=True):
            known = {text: code for code, text in enumerate(dict.fromkeys(column))}
            strings[name], records[name] = list(known), [known[text] for text in column]
    head = json.dumps({"lines": lines.stat().st_size, "strings": strings})
    write_atomically(_columns_file(lines), head.encode() + b"\n" + records.tobytes())


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
        return np.frombuffer(content, dtype=_RECORD), about["strings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _columns_file(lines: Path) -> Path:
    return lines.with_name("columns.bin")
