"""`report` and `compare`: look at runs that are on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.arguments import RunFolder
from cli.output import Json, emit, emit_json, note
from cli.tables import show_groups


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(report)
    app.command()(compare)


def report(
    folder: RunFolder,
    file: Annotated[Path | None, typer.Option("--file", help="Where to write it; by default in the folder.")] = None,
) -> None:
    """Write report.html of a run, finished or not, and print its path."""
    from lifelong.report.html import write_report
    from lifelong.runner import load_run

    emit(str(write_report(load_run(folder), file)))


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Run folders.", show_default=False)],
    strategies: Annotated[
        list[str], typer.Option("--strategy", help="Show only that strategy; may be repeated.", show_default=False)
    ] = [],  # noqa: B006 (Typer copies it)
    as_json: Json = False,
) -> None:
    """Put the strategies of one run, or of several, side by side; only what lived through one stream is compared."""
    from lifelong.runner import load_run
    from lifelong.summary import columns, side_by_side, to_json

    comparisons = side_by_side([load_run(f) for f in folders], strategies)
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
