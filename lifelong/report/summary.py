"""The table that a run ends with: one row per strategy, grouped by what the strategies were allowed to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lifelong.config.run import StrategyConfig
from lifelong.execution.manifest import read_manifest
from lifelong.execution.runner import Run
from lifelong.report.columns import Cell, Column, columns
from lifelong.report.yardstick import Numbers, Yardstick, same_learner, twin
from lifelong.results.series import Series, indexed
from lifelong.results.table import Row
from streams.errors import ConfigError, closest

_NO_REQUEST = "no request has been served"
_NO_REFERENCE = "the retrained reference was not computed"
_UNTOLD = "it is not told of references"
UNFINISHED = "not finished"


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy's results, in the order of `columns`.

    Attributes:
        strategy: its name.
        cells: its numbers.
        remark: what they say in words, where a strategy had no effect or broke the model.
        learner: how what it learns by is called.
        idle: what doing nothing gets with the same learner; none if the run does not tell.
        idle_of: the strategy that does nothing, if it is one of the run.
        second: what a second retraining gets; none if it was not computed.
    """

    strategy: str
    cells: tuple[Cell, ...]
    remark: str = ""
    learner: str = ""
    idle: tuple[Cell, ...] | None = None
    idle_of: str | None = None
    second: tuple[Cell, ...] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Strategies that were allowed to read the same; only these may be compared with each other."""

    access: str
    lines: tuple[Line, ...]

    @property
    def beside(self) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
        """What the lines must be read beside: see `beside`."""
        return beside(self.lines)


def beside(lines: Sequence[Line]) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """Return, for every learner, what doing nothing gets and what a second retraining gets, each with its name.

    Doing nothing is left out where the strategy that does it is one of the lines.
    """
    rows: dict[str, tuple[Cell, ...]] = {}
    for line in lines:
        if line.idle is not None and line.idle_of not in {other.strategy for other in lines}:
            rows.setdefault(f"doing nothing: {line.learner}", line.idle)
        if line.second is not None:
            rows.setdefault(f"second retraining: {line.learner}", line.second)
    return tuple(rows.items())


def measure_of(run: Run) -> str:
    """Return the name of the score that the run's tables hold (``accuracy`` for classification)."""
    for table in run.tables.values():
        for r in table.rows:
            if r.model == "run" and r.subject == "stream" and r.metric.startswith("average_"):
                return r.metric.removeprefix("average_")
    return "accuracy"


def summarize(run: Run, series: Mapping[str, Series] | None = None) -> list[Group]:
    """Return the run's results, grouped by access; strategies that have not finished come last.

    Args:
        run: the run.
        series: its tables, if they are indexed already.
    """
    measure = measure_of(run)
    series = indexed(run.tables) if series is None else series
    cells = {name: _cells(numbers, measure) for name, numbers in series.items()}
    by_access: dict[str, list[Line]] = {}
    for name in run.tables:
        access = str(run.summaries[name]["access"]) if name in run.summaries else UNFINISHED
        by_access.setdefault(access, []).append(_line(run, name, series, cells, measure))
    return [Group(access, tuple(lines)) for access, lines in _finished_first(by_access)]


def _line(
    run: Run, name: str, series: Mapping[str, Series], cells: Mapping[str, tuple[Cell, ...]], measure: str
) -> Line:
    yardstick, heads = Yardstick(run.config, name, series, measure), columns(measure)
    greyed = [
        cell if head.of is None or cell.value is None else replace(cell, grey=yardstick.why_grey(head.of))
        for cell, head in zip(cells[name], heads, strict=True)
    ]
    nothing, second = yardstick.nothing, yardstick.second
    idle = None
    if nothing is not None:
        idle = cells[nothing.strategy] if nothing.model == "run" else _beside(yardstick, nothing, measure)
    return Line(
        strategy=name,
        cells=tuple(greyed),
        remark=yardstick.remark() or (f"as {same}" if (same := twin(name, series)) else ""),
        learner=_learner(run, name),
        idle=idle,
        idle_of=nothing.strategy if nothing is not None and nothing.model == "run" else None,
        second=None if second is None else _beside(yardstick, second, measure),
    )


def _learner(run: Run, name: str) -> str:
    """Return what a strategy learns by, with its name where another learner of the run is called the same."""
    config = run.config.strategies

    def called(strategy: StrategyConfig) -> str:
        return strategy.isolated.name if strategy.isolated else "+".join(p.name for p in strategy.learner)

    strategy = config[name]
    alike = [n for n, other in config.items() if same_learner(other, strategy)]
    namesakes = [n for n, other in config.items() if called(other) == called(strategy)]
    return called(strategy) if alike == namesakes else f"{called(strategy)} of {alike[0]}"


def unheld(groups: Sequence[Group]) -> str:
    """Say which references are missing without which the distances to retraining cannot be judged; mostly nothing."""
    lines = [line for group in groups for line in group.lines]
    at = [place for place, head in enumerate(columns("")) if head.of and head.kind == "distance"]
    compared = [line for line in lines if any(line.cells[place].value is not None for place in at)]
    missing = []
    if any(line.second is None for line in compared):
        missing.append("how far two retrainings lie apart is not known: add retrained-2 to references.kinds")
    if any(line.idle is None for line in compared):
        missing.append("what doing nothing gets is not known: add withheld to references.kinds")
    return "; ".join(missing)


def to_json(groups: Sequence[Group], heads: Sequence[Column]) -> list[dict[str, Any]]:
    """Return groups as plain data, with the reason of every number that is undefined."""
    result = []
    for group in groups:
        lines: list[dict[str, Any]] = []
        for line in group.lines:
            cells = {head.key: _plain(cell) for head, cell in zip(heads, line.cells, strict=True)}
            lines.append({"strategy": line.strategy, "remark": line.remark, **cells})
        others = [
            {"what": what, **{head.key: _plain(cell) for head, cell in zip(heads, cells, strict=True)}}
            for what, cells in group.beside
        ]
        result.append({"access": group.access, "strategies": lines, "beside": others})
    return result


def _plain(cell: Cell) -> dict[str, Any]:
    plain: dict[str, Any] = {"value": cell.value, "n": cell.n}
    if cell.grey:
        plain["says_nothing"] = cell.grey
    return plain if cell.value is not None else plain | {"reason": cell.reason}


def _cells(series: Series, measure: str) -> tuple[Cell, ...]:
    """Return one strategy's cells, in the order of `columns`."""
    served, end = series.served(), series.lived - 1
    no_request = None if served else _NO_REQUEST

    def at_end(metric: str, subject: str, missing: str) -> Cell:
        r = series.rows(metric, subject).get(end)
        return _cell(r) if r else Cell(None, 0, missing)

    def when_served(metric: str, subject: str | None = None) -> list[Row]:
        rows = [series.rows(metric, subject or name).get(event) for name, event in served.items()]
        return [r for r in rows if r is not None]

    def against(metric: str, missing: str = _NO_REFERENCE) -> Cell:
        rows = list(series.rows(metric, "requests", "retrained").values())
        return _cell(rows[-1]) if rows else Cell(None, 0, no_request or missing)

    nothing = "no event is over"
    compared = bool(series.rows("immediate_js", "requests", "retrained"))
    young = "all deleted data is younger than one event, or was learned again"
    return (
        at_end(f"average_{measure}", "stream", nothing),
        at_end("forgetting_from_first", "stream", nothing),
        _mean(when_served(f"retain_{measure}", "stream"), no_request),
        _mean(when_served(f"forget_{measure}"), no_request),
        against(f"immediate_abs_gap_forget_{measure}"),
        against("immediate_js"),
        against("immediate_abs_gap_membership_auc"),
        against("abs_relapse", young if compared else _NO_REFERENCE),
        _mean(when_served("collateral_mean"), no_request),
        _mean(when_served("exact"), no_request),
        _mean(when_served("weights_erased"), no_request),
        _total(when_served("steps", "event"), no_request),
        at_end("state_bytes", "event", nothing),
    )


def _beside(yardstick: Yardstick, numbers: Numbers, measure: str) -> tuple[Cell, ...]:
    """Return the cells of a reference that stands in a strategy's place, in the order of `columns`."""
    series, model = numbers.series, numbers.model

    def at_end(metric: str) -> Cell:
        rows = series.rows(metric, "stream", model)
        return _cell(rows[max(rows)]) if rows else Cell(None, 0, _UNTOLD)

    def when_served(metric: str, subject: str | None = None) -> Cell:
        rows = [series.rows(metric, subject or r, model).get(event) for r, event in yardstick.served.items()]
        return _mean([r for r in rows if r is not None], _UNTOLD)

    def from_retraining(metric: str) -> Cell:
        value = yardstick.gap(numbers, metric)
        return Cell(value, len(yardstick.served), None if value is not None else _NO_REFERENCE)

    by_key = {
        f"average_{measure}": at_end(f"average_{measure}"),
        f"retain_{measure}": when_served(f"retain_{measure}", "stream"),
        f"forget_{measure}": when_served(f"forget_{measure}"),
        f"abs_gap_forget_{measure}": from_retraining(f"forget_{measure}"),
        "js": from_retraining("js"),
        "abs_gap_membership_auc": from_retraining("membership_auc"),
        "abs_relapse": from_retraining("relapse"),
    }
    return tuple(by_key.get(head.key, Cell(None, 0, _UNTOLD)) for head in columns(measure))


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
                    named = _of_run(run, line) if len(runs) > 1 else line
                    by_stream.setdefault(key, {}).setdefault(group.access, []).append(named)
    return [
        Comparison(*key, [Group(access, tuple(lines)) for access, lines in _finished_first(groups)])
        for key, groups in by_stream.items()
    ]


def _of_run(run: Run, line: Line) -> Line:
    """Return a line whose names say of which run it is."""
    front = f"{run.folder.name}/"
    idle_of = None if line.idle_of is None else front + line.idle_of
    return replace(line, strategy=front + line.strategy, learner=front + line.learner, idle_of=idle_of)


def _finished_first(groups: dict[str, list[Line]]) -> list[tuple[str, list[Line]]]:
    return sorted(groups.items(), key=lambda item: item[0] == UNFINISHED)
