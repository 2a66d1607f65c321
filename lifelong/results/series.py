"""A table that is looked up by what a number is of."""

from __future__ import annotations

from collections.abc import Mapping

from lifelong.results.table import Row, Table


class Series:
    """A table by model, metric and subject, so that looking up costs the same however long the run was."""

    def __init__(self, table: Table) -> None:
        """Index the rows; of several with the same event the last stands."""
        self._rows: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
        self.lived = 0
        for r in table.rows:
            self._rows.setdefault((r.model, r.metric), {}).setdefault(r.subject, {})[r.event] = r
            if r.model == "run":
                self.lived = max(self.lived, r.event + 1)

    def subjects(self, metric: str, model: str = "run") -> list[str]:
        """Return the subjects that have the metric, in order of appearance."""
        return list(self._rows.get((model, metric), {}))

    def rows(self, metric: str, subject: str, model: str = "run") -> dict[int, Row]:
        """Return rows by event."""
        return self._rows.get((model, metric), {}).get(subject, {})

    def value(self, metric: str, subject: str, event: int, model: str = "run") -> float | None:
        """Return one number, or None if it is undefined or absent."""
        r = self.rows(metric, subject, model).get(event)
        return None if r is None else r.value

    def has(self, model: str) -> bool:
        """Return whether there is any row of a model."""
        return any(of == model for of, _ in self._rows)

    def served(self) -> dict[str, int]:
        """Return the requests that have been served, by name, each with the event that served it."""
        return {name: max(rows) for name, rows in self._rows.get(("run", "exact"), {}).items()}

    def measured(self) -> dict[tuple[str, str, int], float | None]:
        """Return scores and losses of the run on what is held, retained and forgotten, by metric, subject and event."""
        return {
            (metric, subject, event): r.value
            for (model, metric), subjects in self._rows.items()
            if model == "run" and metric.startswith(("average_", "retain_", "forget_"))
            for subject, rows in subjects.items()
            for event, r in rows.items()
        }


def indexed(tables: Mapping[str, Table]) -> dict[str, Series]:
    """Return tables that can be looked up, by strategy; of many rows this takes seconds, so do it once."""
    return {name: Series(table) for name, table in tables.items()}
