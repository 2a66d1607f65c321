"""`init`: write a configuration to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import emit
from lifelong.config.shipped import ready_scenarios
from streams.errors import ConfigError

START: dict[str, Any] = {
    "source": "digits",
    "scenario": {"name": "class-incremental", "experiences": 5},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 2, "scope": "sample", "count": 40},
            {"after": 3, "scope": "class", "keys": [1]},
            {"after": 5, "scope": "user", "keys": [11]},
        ],
    },
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 10, "batch_size": 32, "lr": 0.05},
    "strategies": {
        "approximate": {
            "learner": {"name": "replay", "memory": 200},
            "unlearner": {"name": "finetune", "retained": "memory", "lr": 0.05, "epochs": 20},
        },
        "exact": {"learner": {"name": "replay", "memory": 200}, "unlearner": "retrain"},
    },
    "references": {"kinds": ["retrained", "retrained-2", "withheld"]},
}
"""What a configuration starts from: a model that learns, and three requests of as many kinds."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]", help="A ready scenario to start from; any other name starts from a small example."
        ),
    ] = "experiment",
    file: Annotated[
        Path | None, typer.Option("--file", help="Where to write it; by default NAME.yaml.", show_default=False)
    ] = None,
) -> None:
    """Write an annotated configuration; a file that is there already is never overwritten."""
    from lifelong.config.annotate import annotated
    from lifelong.config.run import RunConfig, load_config
    from streams.config import parse

    end = next((end for end in (".yaml", ".yml") if name.endswith(end)), "")  # the file may be named as well
    name = name.removesuffix(end)
    target = file or Path(f"{name}{end or '.yaml'}")
    config = load_config(name) if name in ready_scenarios() else parse(RunConfig, {"name": name} | START)
    try:
        with target.open("x", encoding="utf-8") as opened:
            opened.write(annotated(config))
    except FileExistsError as error:
        raise ConfigError(f"{target} is there already and is not overwritten. Choose another with --file.") from error
    except OSError as error:
        raise ConfigError(f"Cannot write {target}: {error.strerror}. Choose another place with --file.") from error
    emit(str(target))
