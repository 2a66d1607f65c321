"""`export-model` and `audit`: language models that go to other tools, and come from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.arguments import RunFolder, Runs, Set, Trust
from cli.commands.run import Quiet, play_config
from cli.folders import RUN, find_folder
from cli.output import Json, emit, note

if TYPE_CHECKING:
    from lifelong.config.run import RunConfig


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export-model")(export_model)
    app.command()(audit)


def export_model(
    folder: RunFolder,
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="Whose model.", show_default=False)],
    event: Annotated[
        int | None, typer.Option("--event", help="After which event; by default after the last.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where to; by default models/STRATEGY-event-E in the run.", show_default=False
        ),
    ] = None,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Write adapters (model.lora) beside the weights, not added to them.")
    ] = False,
    trust: Trust = False,
    runs: Runs = Path("runs"),
) -> None:
    """Write a language model of a run as a Hugging Face folder, with its tokeniser, and print its path."""
    import json

    from lifelong.execution.exporting import export_model

    written = export_model(find_folder(folder, runs, (RUN,)), strategy, event, out, not adapters, trust)
    if json.loads((written / "lifelong.json").read_text(encoding="utf-8"))["without_guard"]:
        note(f"{strategy} has a guard, which acts beside the model and is not in the folder: these are bare weights.")
    emit(str(written))


def audit(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A Hugging Face folder: weights and tokeniser.", show_default=False)
    ],
    scenario: Annotated[
        str,
        typer.Option("--scenario", metavar="NAME|FILE", help="Its stream, model and references.", show_default=False),
    ],
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="Whose learner taught it; by default the first's.", show_default=False),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            "--request", help="The request after which it stands; by default the last one.", show_default=False
        ),
    ] = None,
    sets: Set = [],  # noqa: B006
    runs: Runs = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier attempt left.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Measure a language model that was unlearned elsewhere, beside the references of a scenario.

    `lifelong compare` puts it into one table with strategies that lived through the same stream.
    """

    def configured() -> RunConfig:
        from lifelong.config.run import load_config
        from lifelong.setup.auditing import audit_config

        return audit_config(load_config(scenario, sets, trust), model, strategy, request)

    play_config(configured, runs, fresh, quiet, as_json)
