"""The table that a run ends with: one row per strategy, grouped by what the strategies were allowed to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lifelong.execution.manifest import read_manifest
from lifelong.execution.runner import Run
from lifelong.results.table import Row, Table
from streams.errors import ConfigError, closest

Kind = Literal["score", "gap", "distance", "share", "count", "bytes"]

_NO_REQUEST = "no request has been served"
_NO_REFERENCE = "the retrained reference was not computed"
UNFINISHED = "not finished"


@dataclass(frozen=True, slots=True)
class Column:
    """What one column says.

    Attributes:
        key: its name in JSON.
        title: its head in tables.
        kind: how its numbers are written.
        meaning: one sentence.
    """

    key: str
    title: str
    kind: Kind
    meaning: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One number, or None and the reason why there is none; `n` is what it rests on."""

    value: float | None
    n: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy's results, in the order of `columns`."""

    strategy: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Strategies that were allowed to read the same; only these may be compared with each other."""

    access: str
    lines: tuple[Line, ...]


def measure_of(run: Run) -> str:
    """Return the name of the score that the run's tables hold (``accuracy`` for classification)."""
    for table in run.tables.values():
        for r in table.rows:
            if r.model == "run" and r.subject == "stream" and r.metric.startswith("average_"):
                return r.metric.removeprefix("average_")
    return "accuracy"


def columns(measure: str) -> tuple[Column, ...]:
    """Return the columns for a score of that name."""
    score = measure.replace("_", " ")
    return (
        Column(f"average_{measure}", f"average {score}", "score", f"mean {score} over the units held at the end"),
        Column("forgetting_from_first", "forgetting", "gap", "mean fall since each held unit was first learned"),
        Column(f"forget_{measure}", f"forget {score}", "score", f"{score} on deleted data, right after its request"),
        Column(f"gap_forget_{measure}", "forget gap", "gap", "that minus the retrained reference's; 0 is ideal"),
        Column("js", "JS to retrained", "distance", "Jensen-Shannon divergence from it on that data, in bits"),
        Column("gap_membership_auc", "MIA gap", "gap", "membership attack's AUC minus the reference's; 0 is ideal"),
        Column("relapse", "relapse", "gap", "how far deleted data has come back by the end"),
        Column("collateral_mean", "collateral", "distance", f"mean change of other units' {score} through a request"),
        Column("exact", "exact", "share", "share of the requests that were served exactly"),
        Column(
            "weights_erased",
            "weights erased",
            "share",
            "share of the requests that changed the weights; with 0 % what was learned stays in the weights",
        ),
        Column("request_steps", "request steps", "count", "optimizer steps spent on requests"),
        Column("state_bytes", "state", "bytes", "size of what the strategy keeps"),
    )


def summarize(run: Run) -> list[Group]:
    """Return the run's results, grouped by access; strategies that have not finished come last."""
    measure = measure_of(run)
    by_access: dict[str, list[Line]] = {}
    for name, table in run.tables.items():
        access = str(run.summaries[name]["access"]) if name in run.summaries else UNFINISHED
        by_access.setdefault(access, []).append(Line(name, _cells(table, measure)))
    return [Group(access, tuple(lines)) for access, lines in _finished_first(by_access)]


def to_json(groups: Sequence[Group], heads: Sequence[Column]) -> list[dict[str, Any]]:
    """Return groups as plain data, with the reason of every number that is undefined."""
    result = []
    for group in groups:
        lines: list[dict[str, Any]] = []
        for line in group.lines:
            cells = {head.key: _plain(cell) for head, cell in zip(heads, line.cells, strict=True)}
            lines.append({"strategy": line.strategy, **cells})
        result.append({"access": group.access, "strategies": lines})
    return result


def _plain(cell: Cell) -> dict[str, Any]:
    plain: dict[str, Any] = {"value": cell.value, "n": cell.n}
    return plain if cell.value is not None else plain | {"reason": cell.reason}


def shown(cell: Cell, kind: Kind) -> str:
    """Return a cell as text; an undefined one is a dash.

    >>> shown(Cell(0.03125), "gap"), shown(Cell(None), "score"), shown(Cell(73640), "bytes")
    ('+0.031', '-', '73.6 kB')
    """
    if cell.value is None:
        return "-"
    match kind:
        case "gap":
            return f"{cell.value:+.3f}"
        case "share":
            return f"{cell.value:.0%}"
        case "count":
            return f"{cell.value:,.0f}"
        case "bytes":
            return _bytes(cell.value)
        case _:
            return f"{cell.value:.3f}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _cells(table: Table, measure: str) -> tuple[Cell, ...]:
    """Return one strategy's cells, in the order of `columns`."""
    run_rows = [r for r in table.rows if r.model == "run"]
    retrained = [r for r in table.rows if r.model == "retrained"]
    end = max((r.event for r in run_rows), default=-1)
    served = {r.subject: r.event for r in run_rows if r.metric == "exact"}
    no_request = None if served else _NO_REQUEST

    def at_end(metric: str, subject: str, missing: str) -> Cell:
        rows = [r for r in run_rows if r.metric == metric and r.subject == subject and r.event == end]
        return _cell(rows[-1]) if rows else Cell(None, 0, missing)

    def when_served(metric: str) -> Cell:
        return _mean([r for r in run_rows if r.metric == metric and served.get(r.subject) == r.event], no_request)

    def against(metric: str) -> Cell:
        rows = [r for r in retrained if r.metric == f"immediate_{metric}" and r.subject == "requests"]
        return _cell(rows[-1]) if rows else Cell(None, 0, no_request or _NO_REFERENCE)

    nothing = "no event is over"
    returned = no_request or "all deleted data is younger than one event, or was learned again"
    return (
        at_end(f"average_{measure}", "stream", nothing),
        at_end("forgetting_from_first", "stream", nothing),
        when_served(f"forget_{measure}"),
        against(f"gap_forget_{measure}"),
        against("js"),
        against("gap_membership_auc"),
        at_end("relapse", "requests", returned),
        when_served("collateral_mean"),
        when_served("exact"),
        when_served("weights_erased"),
        _total([r for r in run_rows if r.metric == "steps" and r.event in served.values()], no_request),
        at_end("state_bytes", "event", nothing),
    )


def _cell(r: Row) -> Cell:
    return Cell(r.value, r.n, r.reason)


def _mean(rows: list[Row], missing: str | None) -> Cell:
    return _reduced(rows, missing, np.mean)


def _total(rows: list[Row], missing: str | None) -> Cell:
    return _reduced(rows, missing, np.sum)


def _reduced(rows: list[Row], missing: str | None, reduce: Callable[[list[float]], Any]) -> Cell:
    values = [r.value for r in rows if r.value is not None]
    if values:
        return Cell(float(reduce(values)), len(values))
    reasons = [r.reason for r in rows if r.reason]
    return Cell(None, 0, reasons[0] if reasons else missing or "no request has a value")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What lived through one stream on the same data, scored alike: digests of both, the score, and the groups."""

    stream: str
    data: str
    measure: str
    groups: list[Group]


def side_by_side(runs: Sequence[Run], strategies: Sequence[str] = ()) -> list[Comparison]:
    """Return the strategies of several runs, kept apart where their streams, data or scores differ.

    Args:
        runs: from `load_run`; where there are several, a strategy is called ``folder/strategy``.
        strategies: only those; all if there are none.

    Raises:
        ConfigError: no run has a strategy of that name.
    """
    names = {name for run in runs for name in run.tables}
    for name in strategies:
        if name not in names:
            raise ConfigError(f"No run has a strategy {name!r}. {closest(name, names)}")
    by_stream: dict[tuple[str, str, str], dict[str, list[Line]]] = {}
    for run in runs:
        digests = read_manifest(run.folder)["digests"]
        key = (str(digests["stream"]), str(digests["data"]), measure_of(run))
        for group in summarize(run):
            for line in group.lines:
                if not strategies or line.strategy in strategies:
                    label = f"{run.folder.name}/{line.strategy}" if len(runs) > 1 else line.strategy
                    by_stream.setdefault(key, {}).setdefault(group.access, []).append(Line(label, line.cells))
    return [
        Comparison(*key, [Group(access, tuple(lines)) for access, lines in _finished_first(groups)])
        for key, groups in by_stream.items()
    ]


def _finished_first(groups: dict[str, list[Line]]) -> list[tuple[str, list[Line]]]:
    return sorted(groups.items(), key=lambda item: item[0] == UNFINISHED)
