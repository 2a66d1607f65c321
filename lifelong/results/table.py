"""The table of results: append-only rows with one number each, kept as JSON lines."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.errors import CheckpointError

_PIECE = 1 << 22  # characters that are taken apart at once

Fields = tuple[int, str, str, str, float | None, int, str | None]
"""A row as a plain tuple."""

# What `Row.to_json` writes where nothing needs escaping; five times as fast as parsing JSON.
_LINE = re.compile(
    r'^\{"event": (-?\d+), "model": "([^"\\]*)", "subject": "([^"\\]*)", "metric": "([^"\\]*)", '
    r'"value": (null|-?[\d.]+(?:e[-+]?\d+)?), "n": (\d+)(?:, "reason": "([^"\\]*)")?\}\n',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One number.

    Attributes:
        event: index of the event after which it holds; -1 is before the first.
        model: ``run``, or the reference it belongs to (``retrained`` ...).
        subject: what was measured: ``stream``, a unit, a request, ``event`` for costs.
        metric: name; `lifelong.metrics.catalogue` says what each means.
        value: the number, or None where it is undefined.
        n: samples (or units) it rests on.
        reason: why it is undefined.
    """

    event: int
    model: str
    subject: str
    metric: str
    value: float | None
    n: int = 0
    reason: str | None = None

    def to_json(self) -> str:
        """Return the row as one line; floats keep every bit."""
        texts = f'"model": {_quoted(self.model)}, "subject": {_quoted(self.subject)}, "metric": {_quoted(self.metric)}'
        # As json writes it; a dict for every row would take several times as long.
        is_plain = type(self.value) is float and math.isfinite(self.value)
        value = repr(self.value) if is_plain else json.dumps(self.value)
        reason = "" if self.reason is None else f', "reason": {_quoted(self.reason)}'
        return f'{{"event": {self.event}, {texts}, "value": {value}, "n": {self.n}{reason}}}'


INFINITE = ("the value is inf", "the value is -inf")
"""The reason of a row whose value is infinite, of a perplexity, say: it was measured, and is not undefined."""


@functools.lru_cache(maxsize=1 << 14)
def _quoted(text: str) -> str:
    return json.dumps(text)


def row(event: int, model: str, subject: str, metric: str, value: float | None, n: int, reason: str = "") -> Row:
    """Return a row; a value that is None or not finite becomes null with a reason, which is that if it is infinite."""
    if value is not None and math.isinf(value):
        return Row(event, model, subject, metric, None, n, INFINITE[int(value < 0)])
    if value is None or not math.isfinite(value):
        return Row(event, model, subject, metric, None, n, reason or f"the value is {value}")
    return Row(event, model, subject, metric, float(value), n)


def read_rows(file: Path, metrics: Iterable[str] | None = None) -> list[Row]:
    """Read a table. A last line that has no end is left out: the run was killed while it was written.

    Args:
        file: JSON lines.
        metrics: read only the rows of these; None reads all.

    Raises:
        CheckpointError: a line is not a row.
    """
    return [Row(*fields) for fields in read_fields(file, metrics)]


def read_fields(file: Path, metrics: Iterable[str] | None = None) -> list[Fields]:
    """Read a table as tuples in the order of `Row`, for those who want columns; see `read_rows`."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not a table of results: {error}.") from error
    text = text[: text.rfind("\n") + 1]
    if metrics is not None:
        names = "|".join(re.escape(json.dumps(name)) for name in metrics)
        text = "".join(re.findall(f'^.*"metric": (?:{names}),.*\n', text, re.MULTILINE))
    known: dict[str, str] = {}
    name = known.setdefault  # of equal strings one is enough
    fields: list[Fields] = []
    for piece in _pieces(text):  # matches take ten times the memory of their text
        matches = _LINE.findall(piece)
        if len(matches) != piece.count("\n"):  # something has to be escaped, or is not a row
            return _read_each(file, text)
        fields += [
            (int(e), name(m, m), name(s, s), name(k, k), None if v == "null" else float(v), int(n), name(r, r) or None)
            for e, m, s, k, v, n, r in matches
        ]
    return fields


def _pieces(text: str) -> Iterator[str]:
    """Yield a text of whole lines in parts of whole lines."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start + _PIECE) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _read_each(file: Path, text: str) -> list[Fields]:
    fields: list[Fields] = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            r = Row(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{file}, line {number} is not a row of results: {error}.") from error
        fields.append((r.event, r.model, r.subject, r.metric, r.value, r.n, r.reason))
    return fields


class Table:
    """Rows in memory, with the lookups that tables, reports and trackers need."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Start with `rows`."""
        self.rows: list[Row] = list(rows)

    def extend(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self.rows.extend(rows)

    def select(self, metric: str, subject: str | None = None, model: str = "run") -> list[Row]:
        """Return the rows of one metric, in order of appearance."""
        return [
            r
            for r in self.rows
            if r.metric == metric and r.model == model and (subject is None or r.subject == subject)
        ]

    def last(self, metric: str, subject: str, model: str = "run") -> Row | None:
        """Return the row with the highest event, or None."""
        rows = self.select(metric, subject, model)
        return max(rows, key=lambda r: r.event) if rows else None

    def frame(self) -> dict[str, list[object]]:
        """Return the rows as columns (``pandas.DataFrame(table.frame())`` makes a frame of them)."""
        return {name: [getattr(r, name) for r in self.rows] for name in Row.__dataclass_fields__}
