"""Printing: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from lifelong.report.aligned import Dim, aligned

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def emit(text: str) -> None:
    """Print to standard output; if its reader has gone away, stop quietly."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def emit_json(data: object) -> None:
    """Print plain data as JSON."""
    emit(json.dumps(data, indent=1))


def note(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)


def terminal() -> Console:
    """Return standard output as a rich console that takes text as it is."""
    from rich.console import Console

    return Console(highlight=False, markup=False)


def emit_table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", numbers: bool = False) -> None:
    """Print a table: drawn in a terminal, aligned text in a pipe.

    Args:
        heads: one per column.
        rows: cells as text, some of them `Dim`.
        title: a line above.
        numbers: whether all columns but the first hold numbers; they are set right, and a table that is too wide for
            the terminal is broken into several that repeat the first column.
    """
    console = terminal()
    if not console.is_terminal:
        emit(aligned(heads, rows, title, numbers))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for number, chosen in enumerate(_blocks(heads, rows, console.width) if numbers else [list(range(len(heads)))]):
        table = Table(box=box.SIMPLE_HEAD, title=title if not number else None, title_justify="left", pad_edge=False)
        for i in chosen:
            right = numbers and i > 0
            head = "\n".join(wrap(heads[i], _need(heads, rows, i))) if numbers else heads[i]
            table.add_column(head, justify="right" if right else "left", no_wrap=i == 0, overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[i], style="dim") if isinstance(row[i], Dim) else row[i] for i in chosen))
        console.print(table)


def _need(heads: Sequence[str], rows: Sequence[Sequence[str]], column: int) -> int:
    """Return the characters that a column takes if its head may be broken at spaces."""
    return max([*(len(row[column]) for row in rows), *(len(word) for word in heads[column].split())])


def _blocks(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Share the columns out over as many tables as it takes to fit each into `width`."""
    gap, edges = 3, 2
    needs = [_need(heads, rows, i) + gap for i in range(len(heads))]
    blocks: list[list[int]] = []
    room = 0
    for i in range(1, len(heads)):
        if needs[i] > room or not blocks:
            blocks.append([0])
            room = width - edges - needs[0]
        blocks[-1].append(i)
        room -= needs[i]
    return blocks or [[0]]
