"""`doctor`: whether this machine is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.arguments import Runs
from cli.output import Json, emit_json, emit_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    runs: Runs = Path("runs"),
    full: Annotated[bool, typer.Option("--full", help="Also time the import of Avalanche.")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, device, folders, optional data and W&B; exit with 1 if something is missing."""
    from lifelong.setup.doctor import examine

    checks = list(examine(runs, full))
    if as_json:
        emit_json([{"name": c.name, "found": c.found, "good": c.good} for c in checks])
    else:
        emit_table(["", "check", "found"], [["ok" if c.good else "MISSING", c.name, c.found] for c in checks])
    if not all(c.good for c in checks):
        raise typer.Exit(1)
