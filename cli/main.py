"""The command `lifelong`: puts the commands together and turns errors into messages and exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated

import typer

from cli.commands import (
    bench,
    capacity,
    doctor,
    init,
    models,
    pretrain,
    preview,
    registry,
    results,
    run,
    study,
    traces,
    tune,
    verify,
)
from streams.errors import LifelongError

app = typer.Typer(
    name="lifelong",
    help="Play one stream of learning and forgetting to many strategies, and compare how they live through it.",
    epilog="Exit codes: 0 good, 1 a run failed, 2 usage or configuration, 3 a criterion of a study or a claim of "
    "exactness is contradicted, 130 stopped by Ctrl-C or SIGTERM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    run,
    study,
    tune,
    bench,
    preview,
    results,
    models,
    verify,
    traces,
    capacity,
    registry,
    init,
    pretrain,
    doctor,
):
    module.register(app)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere on the line.")] = False,
) -> None:
    """Take the options that belong to no command."""


def main() -> None:
    """Run the command line and exit."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s: %(message)s")
    if "--quiet" in arguments:  # the hub and transformers, which look when they are imported, show no bars either
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        if "--version" in arguments[:1]:
            from importlib.metadata import version

            print(version("lifelong-simulator"))
            return
        app(arguments, prog_name="lifelong")
    except LifelongError as error:
        if debug:
            traceback.print_exc()
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        _flush()


def _flush() -> None:
    """Write out what is left; a reader that has gone away (`lifelong list | head`) is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":  # `python -m cli.main`, where the command is not on the path
    main()
