"""Runs and studies in other forms: a page, Markdown, LaTeX, the tidy table as CSV or Parquet, pictures for print."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import plotly.graph_objects as go

from lifelong.execution.runner import Run
from lifelong.files import write_atomically
from lifelong.report.contact_sheet import rows_of_sheets
from lifelong.report.facts import Facts, gather
from lifelong.report.gathering import gather_lives
from lifelong.report.html import run_drawings, write_report
from lifelong.report.latex import run_latex, study_latex
from lifelong.report.markdown import run_markdown, study_markdown
from lifelong.report.study import write_study_report
from lifelong.report.study_drawings import study_drawings
from lifelong.results.table import Row, Table, read_rows
from lifelong.study.study import Study
from streams.errors import ConfigError, closest

Format = Literal["html", "md", "tex", "csv", "parquet", "png", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ROW = tuple(Row.__dataclass_fields__)
_WIDTH, _SCALE = 900, 3

Part = tuple[dict[str, Any], Table]
"""What all rows of a table have in common (grid values, seed, strategy), and the table."""


def form_of(name: str | None, out: Path | None) -> Format:
    """Return the form that was asked for by name, or by the end of the file's name; a page otherwise.

    >>> form_of(None, Path("table.csv"))
    'csv'

    Raises:
        ConfigError: there is no such form.
    """
    form_name = name or (out.suffix.removeprefix(".") if out is not None else "") or "html"
    for form in FORMATS:
        if form == form_name:
            return form
    raise ConfigError(f"There is no format {form_name!r}. {closest(form_name, FORMATS)}")


def export(what: Run | Study, form: Format, out: Path | None = None) -> list[Path]:
    """Write a run or a study in one form.

    Args:
        what: finished or not.
        form: one of `FORMATS`.
        out: the file; for png and svg the folder, which gets a file for every figure. By default ``report.html``,
            ``report.md``, ``report.tex``, ``results.csv``, ``results.parquet`` or ``figures`` in the folder of the run
            or study.

    Returns:
        What was written.

    Raises:
        ConfigError: a package or a browser is missing that the form needs.
    """
    match form:
        case "html":
            return [write_report(what, out) if isinstance(what, Run) else write_study_report(what, out)]
        case "md":
            text = run_markdown(what) if isinstance(what, Run) else study_markdown(gather_lives(what))
            return [_write_text(text, out or what.folder / "report.md")]
        case "tex":
            text = run_latex(what) if isinstance(what, Run) else study_latex(gather_lives(what))
            return [_write_text(text, out or what.folder / "report.tex")]
        case "csv":
            return [_write_csv(_heads(what), parts(what), out or what.folder / "results.csv")]
        case "parquet":
            return [_write_parquet(_heads(what), parts(what), out or what.folder / "results.parquet")]
        case _:
            folder = out or what.folder / "figures"
            if isinstance(what, Study):
                return write_pictures(study_drawings(gather_lives(what)), folder, form)
            facts = gather(what)
            return write_pictures(run_drawings(facts), folder, form) + write_sheets(facts, folder)


def parts(what: Run | Study) -> Iterator[Part]:
    """Yield one table after another, so that they need not be in memory together; of a study what is finished."""
    if isinstance(what, Run):
        yield from (({"strategy": name}, table) for name, table in what.tables.items())
        return
    for job in what.jobs:
        cell = what.cells[job.cell]
        for name in job.config["strategies"]:
            folder = job.folder / "strategies" / name
            if (folder / "done.json").exists():
                yield {**cell.values, "seed": cell.seed, "strategy": name}, Table(read_rows(folder / "results.jsonl"))


def write_sheets(facts: Facts, folder: Path) -> list[Path]:
    """Write the rows of contact sheets as PNG files, where a run kept images; return the files."""
    files = {folder / f"{name}.png": content for name, content in rows_of_sheets(facts)}
    for file, content in files.items():
        write_atomically(file, content)
    return list(files)


def write_pictures(drawings: Iterable[tuple[str, go.Figure]], folder: Path, form: Literal["png", "svg"]) -> list[Path]:
    """Draw figures with a browser, without the network.

    Raises:
        ConfigError: kaleido or a browser is missing.
    """
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError, KaleidoError
    except ImportError as error:
        raise ConfigError(
            f"{form} needs kaleido: pip install kaleido (or 'lifelong-simulator[export]'), and Chromium or Chrome."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    figures = {folder / f"{name}.{form}": published(figure) for name, figure in drawings}
    options = {"format": form, "width": _WIDTH, "scale": _SCALE if form == "png" else 1}
    specs = [
        {"fig": figure.to_plotly_json(), "path": file, "opts": options | {"height": figure.layout.height}}
        for file, figure in figures.items()
    ]
    try:
        kaleido.write_fig_from_object_sync(specs, cancel_on_error=True, kopts={"mathjax": False})
    except ChromeNotFoundError as error:
        raise ConfigError(
            f"{form} is drawn by a browser, and none was found. Install Chromium or Chrome (apt install chromium, or "
            f"kaleido_get_chrome), or put the path of one into the environment variable BROWSER_PATH."
        ) from error
    except (KaleidoError, TimeoutError) as error:
        raise ConfigError(f"The browser could not draw the {form} files: {error!r}.") from error
    return list(figures)


def published(figure: go.Figure) -> go.Figure:
    """Return a figure for print: black on white."""
    result = go.Figure(figure)
    result.update_layout(paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", font={"color": "#000000"})
    return result


def _heads(what: Run | Study) -> tuple[str, ...]:
    grid = () if isinstance(what, Run) else (*what.config.grid, "seed")
    return (*grid, "strategy", *_ROW)


def _write_text(text: str, file: Path) -> Path:
    write_atomically(file, text.encode())
    return file


def _write_csv(heads: Sequence[str], labelled_tables: Iterable[Part], file: Path) -> Path:
    with _replacing(file) as part, part.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        for labels, table in labelled_tables:
            front = tuple(v if isinstance(v, str | int | float) else json.dumps(v) for v in labels.values())
            writer.writerows(
                (*front, r.event, r.model, r.subject, r.metric, r.value, r.n, r.reason) for r in table.rows
            )
    return file


def _write_parquet(heads: Sequence[str], labelled_tables: Iterable[Part], file: Path) -> Path:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "parquet needs pyarrow: pip install pyarrow (or 'lifelong-simulator[export]'). CSV needs nothing."
        ) from error
    types = {"seed": pa.int64(), "event": pa.int64(), "n": pa.int64(), "value": pa.float64()}
    # grid values may be of any kind, so they are written as JSON
    schema = pa.schema([(head, types.get(head, pa.string())) for head in heads])
    with _replacing(file) as part, pq.ParquetWriter(part, schema) as writer:
        for labels, table in labelled_tables:
            front = {k: v if k in ("seed", "strategy") else json.dumps(v) for k, v in labels.items()}
            columns = {k: [v] * len(table.rows) for k, v in front.items()} | table.frame()
            writer.write_table(pa.table(columns, schema=schema))
    return file


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """Lend a place to write to, piece by piece, which becomes `file` only when all is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
