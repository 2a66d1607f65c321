"""Rows of single requests and units as tables, which grow by lines where curves would grow by keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lifelong.results.table import Row

WHOLE = frozenset({"stream", "requests", "event"})
"""Subjects of numbers over everything: as many as metrics, however long the stream is."""

MOST_ROWS = 200_000
"""What W&B keeps of one table; the rest is cut off."""

Table = tuple[list[str], list[list[Any]]]
"""Heads and rows."""


class Wide:
    """What was measured of single requests and units: a line for each event, model and subject, a column a metric."""

    def __init__(self, units: Iterable[str]) -> None:
        """Nothing was measured yet.

        Args:
            units: their names; other subjects are requests.
        """
        self._units = frozenset(units)
        self._lines: dict[tuple[int, str, str], dict[str, float | None]] = {}
        self._undefined: list[list[Any]] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Take in what is not about the whole, and why anything is undefined."""
        for r in rows:
            if r.reason is not None:
                self._undefined.append([r.event, r.model, r.subject, r.metric, r.reason])
            if r.subject not in WHOLE:
                self._lines.setdefault((r.event, r.model, r.subject), {})[r.metric] = r.value

    def curve(self, metric: str, is_unit: bool) -> dict[str, dict[int, float | None]]:
        """Return one metric of the run, by subject and event."""
        found: dict[str, dict[int, float | None]] = {}
        for (event, model, subject), values in self._lines.items():
            if model == "run" and metric in values and (subject in self._units) is is_unit:
                found.setdefault(subject, {})[event] = values[metric]
        return found

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yield ``units``, ``requests`` and ``undefined``, those that have rows, in parts of at most `MOST_ROWS`."""
        for name, is_unit in (("units", True), ("requests", False)):
            yield from _parts(name, *self._table(is_unit))
        yield from _parts("undefined", ["event", "model", "subject", "metric", "reason"], self._undefined)

    def _table(self, is_unit: bool) -> Table:
        lines = {key: v for key, v in self._lines.items() if (key[2] in self._units) is is_unit}
        metrics = list(dict.fromkeys(metric for values in lines.values() for metric in values))
        heads = ["event", "model", "unit" if is_unit else "request", *metrics]
        return heads, [[*key, *map(values.get, metrics)] for key, values in sorted(lines.items())]


def _parts(name: str, heads: list[str], rows: Sequence[list[Any]]) -> Iterator[tuple[str, Table]]:
    for part, start in enumerate(range(0, len(rows), MOST_ROWS), 1):
        yield name if part == 1 else f"{name}-{part}", (heads, list(rows[start : start + MOST_ROWS]))
