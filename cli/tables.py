"""The tables of results that `run`, `resume` and `compare` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import emit, emit_json, emit_table, terminal
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.execution.runner import Run
    from lifelong.report.summary import Column, Group


def show_run(run: Run, as_json: bool) -> Path:
    """Write the report and print a run's results; return where the report is."""
    from lifelong.report.summary import columns, measure_of, summarize, to_json

    heads, groups = columns(measure_of(run)), summarize(run)
    if as_json:
        report = write(run)
        about = {"run": run.config.name, "folder": str(run.folder), "report": str(report), "done": run.done}
        emit_json(about | {"groups": to_json(groups, heads)})
        return report
    show_groups(groups, heads)
    report = write(run)
    emit(f"report: {report}")
    return report


def write(run: Run, file: Path | None = None) -> Path:
    """Write the report of a run and return where it is.

    Raises:
        ConfigError: it cannot be written there.
    """
    from lifelong.report.html import write_report

    try:
        return write_report(run, file)
    except OSError as error:
        place = error.filename or file or run.folder
        raise ConfigError(
            f"Cannot write the report to {place}: {error.strerror}. The results are kept; choose another place: "
            f"lifelong report {run.folder} --file FILE"
        ) from error


def show_groups(groups: Sequence[Group], heads: Sequence[Column]) -> None:
    """Print one table for each access, so that nothing is compared that read different data."""
    from lifelong.report.summary import shown

    for number, group in enumerate(groups):
        rows = [
            [line.strategy, *(shown(c, h.kind) for c, h in zip(line.cells, heads, strict=True))] for line in group.lines
        ]
        if number and not terminal().is_terminal:
            emit("")
        emit_table(["strategy", *(h.title for h in heads)], rows, f"access: {group.access}", numbers=True)
    if terminal().is_terminal:
        for head in heads:
            emit(f"  {head.title}: {head.meaning}")
