"""Arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streams.errors import ConfigError, closest

OVERRIDABLE = {"ignore_unknown_options": True}
"""Context settings of commands that take ``--key=value`` of the configuration beside their own options."""

What = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME|FILE [KEY=VALUE]...",
        help="A ready scenario or a .yaml file; then overrides, as key=value or --key=value.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the configuration, such as training.lr=0.1; may be repeated.",
        show_default=False,
    ),
]


def _on_disk(runs: Path) -> Path:
    """Return a folder for runs, if it can be one."""
    from streams.files import check_on_disk

    return check_on_disk(runs, "--runs")


Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are kept.", callback=_on_disk)]
NAMED = "A path, the beginning of a name in --runs, or last: what was written to last."
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help=f"A run folder. {NAMED}", show_default=False)]
RunFolders = Annotated[list[str], typer.Argument(metavar="RUN...", help=f"Run folders. {NAMED}", show_default=False)]

Trackers = Annotated[
    list[str],
    typer.Option(
        "--tracker",
        metavar="NAME|FILE",
        help="Tell a tracker of your own, such as ./mlflow.py, of everything that happens; may be repeated.",
        show_default=False,
    ),
]


class Where(StrEnum):
    """Where runs are computed."""

    LOCAL = "local"
    RAY = "ray"


On = Annotated[Where, typer.Option(help="Processes on this machine, or Ray.")]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster (10.0.0.1:6379 or auto); else one is started here.")
]
Cpus = Annotated[float, typer.Option(min=0, help="CPUs that a run takes on Ray.")]
Memory = Annotated[float, typer.Option(min=0, help="GB of memory that a run takes on Ray; 0: not counted.")]

Trust = Annotated[
    bool, typer.Option("--trust", help="Run files with code that the folder names, although you never ran them here.")
]


def split(arguments: list[str], context: typer.Context) -> tuple[str, list[str]]:
    """Return the name or file, and the overrides, wherever on the line they stood.

    Raises:
        ConfigError: there is an option that nobody knows, or not exactly one name.
    """
    names = [a for a in arguments if not a.startswith("-") and ("=" not in a or a.endswith((".yaml", ".yml")))]
    overrides = [a.removeprefix("--") for a in arguments if a not in names]
    for argument in overrides:
        if "=" not in argument or argument.startswith("-"):
            option = argument if argument.startswith("-") else f"--{argument}"
            options = [o for p in context.command.params for o in p.opts if o.startswith("--")]
            raise ConfigError(
                f"There is no option {option!r}. {closest(option, options)} Keys of the configuration are written "
                f"--key=value."
            )
    if len(names) != 1:
        listed = ", ".join(map(repr, names)) or "none"
        raise ConfigError(f"Name exactly one ready scenario or .yaml file; found {listed}. See them: lifelong list")
    return names[0], overrides
