"""`traces` and `clean`: what is on disk of a sample, and how to be rid of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.arguments import NAMED, RunFolder, Runs, Trust
from cli.folders import RUN, find_folder
from cli.output import Json, emit, emit_json, emit_table, note
from streams.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(traces)
    app.command()(clean)


def traces(
    folder: RunFolder,
    sample: Annotated[int, typer.Option("--sample", metavar="ID", help="The sample's row in the source.")],
    as_json: Json = False,
    trust: Trust = False,
    runs: Runs = Path("runs"),
) -> None:
    """List the files of a run and of the cache that derive from a sample, deleted or not."""
    from lifelong.execution.traces import traces

    found = traces(find_folder(folder, runs, (RUN,)), sample, trust)
    if as_json:
        emit_json([{"file": str(t.file), "holds": t.holds} for t in found])
    else:
        emit_table(["file", "what it holds"], [[str(t.file), t.holds] for t in found])


def clean(
    named: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help=f"A run folder; without one, the cache. {NAMED}", show_default=False),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Of the cache: what is older.", show_default=False),
    ] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Of a run: also blank scores and losses of deleted samples.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files.")] = False,
    trust: Trust = False,
    runs: Runs = Path("runs"),
) -> None:
    """Remove what derives from data: of a run its details and its part of the cache, or old files of the cache.

    What is removed from the cache is computed again when it is needed.
    """
    from lifelong.execution.traces import clean_cache, clean_run
    from lifelong.files import cache_folder, disk_errors

    folder = None if named is None else find_folder(named, runs, (RUN,))
    if (folder is None) == (older_than is None):
        raise ConfigError("Name a run folder, or an age of files in the cache: lifelong clean --older-than 30.")
    if folder is None and deleted:
        raise ConfigError("--deleted: name the run folder whose deleted samples are meant.")
    with disk_errors(folder or cache_folder()):
        if folder is not None:
            files = clean_run(folder, deleted, trust, dry_run)
        else:
            files = clean_cache(older_than or 0.0, dry_run)
    for file in files:
        emit(str(file))
    done = "removed or blanked" if deleted else "removed"
    if len(files) == 1:
        note(f"1 file {'would be' if dry_run else 'was'} {done}.")
    else:
        note(f"{len(files)} files {'would be' if dry_run else 'were'} {done}.")
