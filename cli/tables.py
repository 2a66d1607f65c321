"""The tables of results that `run`, `resume` and `compare` print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import Dim, emit, emit_json, emit_table, terminal
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.execution.runner import Run
    from lifelong.report.columns import Cell, Column
    from lifelong.report.summary import Group


def show_run(run: Run, as_json: bool) -> Path:
    """Write the report and print a run's results; return where the report is."""
    from lifelong.report.columns import columns
    from lifelong.report.summary import measure_of, summarize, to_json

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


def show_seeds(runs: Sequence[Run], as_json: bool) -> None:
    """Print the means of several seeds of a run, with their intervals, one table for each access."""
    from lifelong.report.columns import REMARK
    from lifelong.report.seeds import INTERVAL, in_words, over_seeds

    heads, lines = over_seeds(runs)
    if as_json:
        strategies = [
            {"strategy": s.strategy, "access": s.access, "seeds": s.seeds, "remark": s.remark}
            | {head.key: asdict(mean) for head, mean in zip(heads, s.means, strict=True)}
            for s in lines
        ]
        emit_json({"folders": [str(run.folder) for run in runs], "interval": INTERVAL, "strategies": strategies})
        return
    remarked = any(s.remark for s in lines)
    titles = ["strategy", *([REMARK[0]] if remarked else []), *(h.title for h in heads)]
    for number, access in enumerate(dict.fromkeys(s.access for s in lines)):
        rows = [
            [s.strategy, *([s.remark] if remarked else [])]
            + [in_words(mean, head.kind, len(runs)) for mean, head in zip(s.means, heads, strict=True)]
            for s in lines
            if s.access == access
        ]
        if number and not terminal().is_terminal:
            emit("")
        emit_table(titles, rows, f"access: {access}", numbers=True)
    emit(f"{len(runs)} seeds. {INTERVAL[0].upper()}{INTERVAL[1:]}.")


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
    """Print one table for each access, so that nothing is compared that read different data.

    Below its strategies stands what doing nothing gets, and what a second retraining gets.
    """
    from lifelong.report.columns import FOOTNOTE, REMARK
    from lifelong.report.summary import unheld

    lines = [line for group in groups for line in group.lines]
    remarked = any(line.remark for line in lines)
    titles = ["strategy", *([REMARK[0]] if remarked else []), *(h.title for h in heads)]
    for number, group in enumerate(groups):
        rows: list[list[str]] = []
        for line in group.lines:
            rows.append([line.strategy, *([line.remark] if remarked else []), *_texts(line.cells, heads)])
        for what, cells in group.beside:
            rows.append([Dim(text) for text in (what, *([""] if remarked else []), *_texts(cells, heads))])
        if number and not terminal().is_terminal:
            emit("")
        emit_table(titles, rows, f"access: {group.access}", numbers=True)
    if any(cell.grey for line in lines for cell in line.cells):
        emit(FOOTNOTE)
    if missing := unheld(groups):
        emit(f"{missing[0].upper()}{missing[1:]}.")
    if terminal().is_terminal:
        for title, meaning in [*([REMARK] if remarked else []), *((h.title, h.meaning) for h in heads)]:
            emit(f"  {title}: {meaning}")


def _texts(cells: Sequence[Cell], heads: Sequence[Column]) -> list[str]:
    from lifelong.report.columns import marked, shown

    texts = [marked(shown(cell, head.kind), cell.grey) for cell, head in zip(cells, heads, strict=True)]
    return [Dim(text) if cell.grey else text for text, cell in zip(texts, cells, strict=True)]
