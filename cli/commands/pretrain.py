"""`pretrain`: run the base session of a model once, and keep its weights."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.arguments import Set
from cli.output import Json, emit_json, emit_table
from streams.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pretrain)


def pretrain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model such as vit-tiny.")] = "vit-tiny",
    sets: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Train a model on 300 characters that streams need not show, for `model: {name: ..., pretrained: glyphs}`."""
    import logging

    from lifelong.config.run import override
    from lifelong.models._base_session import BaseSession, pretrain

    logging.getLogger("lifelong.models._base_session").setLevel(logging.INFO)
    options = override({}, sets)
    if "pretrained" in options:
        raise ConfigError("--set pretrained=... is what this command makes; leave it out.")
    pretrained = pretrain(model, options, BaseSession())
    row = {
        "model": model,
        "accuracy": round(pretrained.accuracy, 4),
        "cached": pretrained.cached,
        "file": str(pretrained.file),
    }
    if as_json:
        emit_json(row)
    else:
        emit_table(["", ""], [[k, str(v)] for k, v in row.items()])
