"""`init`: write a configuration to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import emit
from lifelong.config.shipped import ready_scenarios
from streams.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    name: Annotated[
        str,
        typer.Argument(metavar="[NAME]", help="A ready scenario to start from; any other name starts from defaults."),
    ] = "experiment",
    file: Annotated[
        Path | None, typer.Option("--file", help="Where to write it; by default NAME.yaml.", show_default=False)
    ] = None,
) -> None:
    """Write an annotated configuration; a file that is there already is never overwritten."""
    from lifelong.config.annotate import annotated
    from lifelong.config.run import RunConfig, load_config
    from streams.config import parse

    target = file or Path(f"{name}.yaml")
    config = load_config(name) if name in ready_scenarios() else parse(RunConfig, {"name": name})
    try:
        with target.open("x", encoding="utf-8") as opened:
            opened.write(annotated(config))
    except FileExistsError as error:
        raise ConfigError(f"{target} is there already and is not overwritten. Choose another with --file.") from error
    except OSError as error:
        raise ConfigError(f"Cannot write {target}: {error.strerror}. Choose another place with --file.") from error
    emit(str(target))
