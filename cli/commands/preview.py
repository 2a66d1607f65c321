"""`preview`: the timeline of a stream, before any compute is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import OVERRIDABLE, Set, Trust, What, split
from cli.output import Json, emit, emit_json, emit_table, terminal

if TYPE_CHECKING:
    from lifelong.setup.preview import Preview

# held from before, learned, learned again, deleted in part, deleted as a whole
_SYMBOLS = {"": " ", "held": "·", "learn": "█", "again": "▓", "part": "−", "all": "×"}
_PLAIN = {"": " ", "held": ".", "learn": "#", "again": "+", "part": "-", "all": "x"}
_COLOURS = {"held": "dim", "learn": "green", "again": "cyan", "part": "yellow", "all": "bold red"}
_MOST_EVENTS, _MOST_UNITS, _MOST_NAMES = 60, 40, 4

Questions = Annotated[
    Path | None,
    typer.Option("--questions", metavar="DIR", help="Write the source's questions to a folder, in TOFU's format."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=OVERRIDABLE)(preview)


def preview(
    context: typer.Context,
    what: What,
    sets: Set = [],  # noqa: B006
    as_json: Json = False,
    questions: Questions = None,
    trust: Trust = False,
) -> None:
    """Draw what a stream will do to each unit, event by event, and count what it takes to learn it."""
    name, overrides = split(what, context)
    from lifelong.config.run import load_config
    from lifelong.references.size import size_of
    from lifelong.setup import preview as previews
    from lifelong.setup.build import make_source, make_stream
    from lifelong.setup.preparation import check_device
    from streams.question_files import write

    config = load_config(name, [*sets, *overrides], trust)
    check_device(config.device)
    source = make_source(config)
    if questions is not None:
        write(source, questions)
    stream = make_stream(config, source)
    size = size_of(stream, config.references, config.service.copies)
    stream_preview = previews.preview(config, stream)
    stream_preview = replace(stream_preview, counts=stream_preview.counts | size.counts(config.training.epochs))
    if as_json:
        emit_json(stream_preview.to_json())
        return
    emit(f"stream {stream_preview.digest}")
    _draw(stream_preview)
    if len(stream_preview.events) <= _MOST_EVENTS:
        emit("")
        emit_table(
            ["event", "what", "name", "samples", "of", "received at, waited"],
            [_event(stream_preview, e) for e in stream_preview.events],
        )
    emit("")
    emit_table(["count", ""], [[k.replace("_", " "), f"{v:,}"] for k, v in stream_preview.counts.items()], numbers=True)


def _draw(stream_preview: Preview) -> None:
    """Draw units by events; long streams are squeezed to the width of the terminal."""
    from rich.text import Text

    from lifelong.setup.preview import compact

    console = terminal()
    symbols = _SYMBOLS if (console.encoding or "").lower().startswith("utf") else _PLAIN
    units = stream_preview.units
    names = list(units) if len(units) <= _MOST_UNITS else _ranges(units, _MOST_UNITS)
    width = max(map(len, names)) + 2
    columns = max(console.width - width - 1, 10)
    grid = compact(stream_preview.marks, columns, _MOST_UNITS)
    for name, row in zip(names, grid, strict=True):
        line = Text(name.ljust(width))
        for mark in row:
            line.append(symbols[mark], style=_COLOURS.get(mark, ""))
        console.print(line, soft_wrap=True) if console.is_terminal else emit(line.plain.rstrip())
    legend = {"learn": "learned", "again": "learned again", "part": "deleted in part", "all": "deleted", "held": "held"}
    emit("   ".join(f"{symbols[k]} {text}" for k, text in legend.items()))
    if len(grid[0]) < len(stream_preview.events):
        emit(f"a column is {len(stream_preview.events) / len(grid[0]):.1f} events, the weightiest of them is drawn")


def _ranges(units: tuple[str, ...], count: int) -> list[str]:
    """Return names for groups of units that share a row, shared out as `lifelong.setup.preview.compact` does."""
    size, larger = divmod(len(units), count)
    starts = [i * size + min(i, larger) for i in range(count)]
    return [f"{units[s]} +{size + (i < larger) - 1}" for i, s in enumerate(starts)]


def _event(stream_preview: Preview, event: dict[str, Any]) -> list[str]:
    from streams.names import in_words

    units = ", ".join(stream_preview.units[u] for u in event["units"][:4]) + (" ..." if len(event["units"]) > 4 else "")
    if event["kind"] == "learn":
        what = "learn" if not event["incarnation"] else f"learn again ({event['incarnation']})"
        return [str(event["event"]), what, event["name"], f"{event['samples']:,}", units, ""]
    named = "; ".join(in_words(r, _MOST_NAMES) for r in event["requests"])
    waits = "; ".join(f"{r['received']}, {w}" for r, w in zip(event["requests"], event["latency"], strict=True))
    return [str(event["event"]), f"forget {named}", event["name"], f"{event['samples']:,}", units, waits]
