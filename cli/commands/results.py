"""`report` and `compare`: look at runs that are on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.arguments import NAMED, RunFolders, Runs, Trust
from cli.folders import RUN, STUDY, find_runs
from cli.output import Json, emit, emit_json, note
from cli.tables import report_errors, show_groups
from streams.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(report)
    app.command()(compare)


def report(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="RUN|STUDY...", help=f"Folders of runs or studies. {NAMED}", show_default=False),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="html|md|tex|csv|parquet|png|svg",
            help="What to write; by default what --out ends in, or html.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--file",
            metavar="FILE",
            help="Where to write it (for png and svg, a folder); by default in the folder.",
            show_default=False,
        ),
    ] = None,
    runs: Runs = Path("runs"),
    trust: Trust = False,
) -> None:
    """Write the reports of runs and studies, finished or not, in one of several formats, and print their paths."""
    from lifelong.execution.runner import load_run
    from lifelong.report.export import export, form_of
    from lifelong.study.study import resume_study

    chosen_form = form_of(form, out)
    found = find_runs(folders, runs, (RUN, STUDY))
    if out is not None and len(found) > 1:
        raise ConfigError(f"--out {out}: {len(found)} reports cannot be one file. Leave it out, or name one folder.")
    for folder in found:
        results = resume_study(folder, trust) if (folder / STUDY).exists() else load_run(folder)
        with report_errors(folder, out):
            written = export(results, chosen_form, out)
        for file in written:
            emit(str(file))


def compare(
    folders: RunFolders,
    strategies: Annotated[
        list[str], typer.Option("--strategy", help="Show only that strategy; may be repeated.", show_default=False)
    ] = [],  # noqa: B006 (Typer copies it)
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Put the strategies of one run, or of several, side by side; only what lived through one stream is compared."""
    from lifelong.execution.runner import load_run
    from lifelong.report.columns import columns
    from lifelong.report.summary import side_by_side, to_json

    comparisons = side_by_side([load_run(f) for f in find_runs(folders, runs)], strategies)
    if as_json:
        emit_json(
            [{"stream": c.stream, "data": c.data, "groups": to_json(c.groups, columns(c.measure))} for c in comparisons]
        )
        return
    if len(comparisons) > 1:
        note(
            f"These runs lived through {len(comparisons)} different streams. Each has tables of its own: numbers of "
            f"different streams must not be compared."
        )
    for number, c in enumerate(comparisons):
        emit(f"{'' if not number else chr(10)}stream {c.stream}")
        show_groups(c.groups, columns(c.measure))
