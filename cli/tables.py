"""The tables of results that `run`, `resume` and `compare` print."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.output import emit, emit_json, emit_table, terminal
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.execution.runner import Run
    from lifelong.report.columns import Column
    from lifelong.report.summary import Group


def show_runs(runs: Sequence[Run], as_json: bool) -> list[Path]:
    """Write the reports of runs and print their results; return where the reports are.

    As JSON one run is an object, and several are a list.
    """
    from lifelong.report.advice import advice
    from lifelong.report.columns import columns
    from lifelong.report.summary import measure_of, summarize, to_json

    reports, plain = [], []
    for number, run in enumerate(runs):
        heads, groups = columns(measure_of(run)), summarize(run)
        if as_json:
            reports.append(write(run))
            about = {"run": run.config.name, "folder": str(run.folder), "report": str(reports[-1]), "done": run.done}
            plain.append(about | {"groups": to_json(groups, heads), "advice": advice(run)})
            continue
        show_name(run.folder, number, len(runs))
        show_groups(groups, heads)
        for said in advice(run):
            emit(said)
        reports.append(write(run))
        emit(f"report: {reports[-1]}")
    if as_json:
        emit_json(one_or_all(plain))
    return reports


def show_name(folder: Path, number: int, of: int) -> None:
    """Print above the results of a run which of several it is."""
    if of > 1:
        emit(f"{chr(10) if number else ''}run {folder.name}")


def one_or_all(plain: list[Any]) -> Any:
    """Return as JSON what a command says of one run, or a list of it for several."""
    return plain[0] if len(plain) == 1 else plain


def show_seeds(runs: Sequence[Run], as_json: bool) -> None:
    """Print the means of several seeds of a run, with their intervals, one table for each access."""
    from lifelong.report.columns import REMARK
    from lifelong.report.seeds import INTERVAL, in_words, over_seeds
    from lifelong.report.text import explained

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
    for line in explained(heads, remarked):
        emit(line)


def write(run: Run) -> Path:
    """Write the report of a run into its folder and return where it is.

    Raises:
        ConfigError: it cannot be written there.
    """
    from lifelong.report.html import write_report

    with report_errors(run.folder):
        return write_report(run)


@contextlib.contextmanager
def report_errors(folder: Path, file: Path | None = None) -> Iterator[None]:
    """Say of a report of `folder` that it cannot be written (to `file`), and how to write it elsewhere.

    Raises:
        ConfigError: the disk refused it.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or file or folder
        raise ConfigError(
            f"Cannot write the report to {place}: {error.strerror}. The results are kept; choose another place: "
            f"lifelong report {folder} --out FILE"
        ) from error


def show_groups(groups: Sequence[Group], heads: Sequence[Column]) -> None:
    """Print one table for each access, and below them what their columns say."""
    from lifelong.report.text import grids, legend

    for number, grid in enumerate(grids(groups, heads)):
        if number and not terminal().is_terminal:
            emit("")
        emit_table(grid.heads, grid.rows, grid.title, numbers=True)
    for line in legend(groups, heads):
        emit(line)
