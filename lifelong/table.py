"""The table of results: append-only rows with one number each, kept as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from streams.errors import CheckpointError


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
        return json.dumps({k: v for k, v in asdict(self).items() if not (k == "reason" and v is None)})


def row(event: int, model: str, subject: str, metric: str, value: float | None, n: int, reason: str = "") -> Row:
    """Return a row; a value that is None or not finite becomes null and must have a reason."""
    if value is None or not math.isfinite(value):
        return Row(event, model, subject, metric, None, n, reason or f"the value is {value}")
    return Row(event, model, subject, metric, float(value), n)


def read_rows(file: Path) -> list[Row]:
    """Read a table. A last line that has no end is left out: the run was killed while it was written.

    Raises:
        CheckpointError: a line is not a row.
    """
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not a table of results: {error}.") from error
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{file}, line {number} is not a row of results: {error}.") from error
    return rows


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
        found = self.select(metric, subject, model)
        return max(found, key=lambda r: r.event) if found else None

    def frame(self) -> dict[str, list[object]]:
        """Return the rows as columns (``pandas.DataFrame(table.frame())`` makes a frame of them)."""
        return {name: [getattr(r, name) for r in self.rows] for name in Row.__dataclass_fields__}
