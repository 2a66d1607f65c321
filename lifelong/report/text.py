"""The tables of a run as plain text: what a pipe gets, and what a script prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lifelong.report.aligned import Dim
from lifelong.report.columns import FOOTNOTE, REMARK, Cell, Column, marked, shown
from lifelong.report.summary import Group, unheld


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: its title, its heads, and its rows, some of whose cells are `Dim`."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(groups: Sequence[Group], heads: Sequence[Column]) -> list[Grid]:
    """Return one table for each access, so that nothing is compared that read different data.

    Below its strategies stands what doing nothing gets, and what a second retraining gets.
    """
    remarked = _has_remarks(groups)
    titles = ("strategy", *([REMARK[0]] if remarked else []), *(h.title for h in heads))
    made = []
    for group in groups:
        rows = [
            (line.strategy, *([line.remark] if remarked else []), *_texts(line.cells, heads)) for line in group.lines
        ]
        for what, cells in group.beside:
            rows.append(tuple(Dim(t) for t in (what, *([""] if remarked else []), *_texts(cells, heads))))
        made.append(Grid(f"access: {group.access}", titles, tuple(rows)))
    return made


def legend(groups: Sequence[Group], heads: Sequence[Column]) -> list[str]:
    """Return what stands below these tables: what the mark means, what is missing, and what each column says."""
    lines = [FOOTNOTE] if any(cell.grey for group in groups for line in group.lines for cell in line.cells) else []
    if missing := unheld(groups):
        lines.append(f"{missing[0].upper()}{missing[1:]}.")
    return lines + explained(heads, _has_remarks(groups))


def explained(heads: Sequence[Column], remarked: bool) -> list[str]:
    """Return a line for every column."""
    named = [*([REMARK] if remarked else []), *((h.title, h.explained) for h in heads)]
    return [f"  {title}: {meaning}" for title, meaning in named]


def _has_remarks(groups: Sequence[Group]) -> bool:
    return any(line.remark for group in groups for line in group.lines)


def _texts(cells: Sequence[Cell], heads: Sequence[Column]) -> list[str]:
    texts = [marked(shown(cell, head.kind), cell.grey) for cell, head in zip(cells, heads, strict=True)]
    return [Dim(text) if cell.grey else text for text, cell in zip(texts, cells, strict=True)]
