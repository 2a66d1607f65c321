"""The heat map of scores: units against events, what is deleted apart from what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from lifelong.report import look


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """What a heat map shows.

    Attributes:
        units: names.
        held, deleted: scores ``[units, events]`` on what should be known of a unit and on what is deleted of it; NaN
            where there is none.
        num_events: events of the whole stream, which may be more than have been lived.
        learned: event and unit of every learn event.
        deletions: events that serve requests.
        bounded: whether scores lie between 0 and 1.
    """

    units: tuple[str, ...]
    held: np.ndarray
    deleted: np.ndarray
    num_events: int
    learned: Sequence[tuple[int, str]]
    deletions: Sequence[int]
    bounded: bool

    @property
    def lived(self) -> int:
        """Events that have been lived."""
        return self.held.shape[1]

    @property
    def measured(self) -> list[int]:
        """Events after which anything was measured."""
        known = np.isfinite(self.held).any(axis=0) | np.isfinite(self.deleted).any(axis=0)
        events: list[int] = np.flatnonzero(known).tolist()
        return events

    @property
    def first_learned(self) -> list[int]:
        """For every unit, the event that teaches it first; after the last event if none does."""
        first: dict[str, int] = {}
        for event, unit in self.learned:
            first[unit] = min(event, first.get(unit, event))
        return [first.get(unit, self.num_events) for unit in self.units]

    def shown(self, limit: int) -> list[int]:
        """Return at most `limit` of the events after which anything was measured, deletions before others."""
        measured = self.measured
        important = np.flatnonzero(np.isin(measured, self.deletions)).tolist()
        return [measured[i] for i in kept_events(len(measured), important, limit)]


def heat_map(matrix: Matrix, events: Sequence[int]) -> go.Figure:
    """Draw a matrix at the events given; what is deleted of a unit has a row and a colour scale of its own.

    A cell reaches back to the event that was measured before it. What is not learned yet is grey: it is not 0.
    """
    has_deleted = np.isfinite(matrix.deleted).any(axis=1)
    lines = [
        (u, deleted) for u in range(len(matrix.units)) for deleted in (False, True) if not deleted or has_deleted[u]
    ]
    names = [f"{matrix.units[u]}, deleted" if deleted else matrix.units[u] for u, deleted in lines]
    figure = go.Figure()
    edges = [-0.5, *(event + 0.5 for event in events)]
    first = matrix.first_learned
    young = np.array([[events[i] < first[u] and not d for i in range(len(events))] for u, d in lines], dtype=bool)
    scales = (
        (False, look.HELD, look.HELD_IN_THE_DARK, 1.01),
        (True, look.DELETED, look.DELETED_IN_THE_DARK, 1.10),
    )
    for is_deleted, colours, in_the_dark, place in scales:
        if is_deleted and not has_deleted.any():
            continue
        values = np.full((len(lines), len(events)), np.nan, dtype=np.float32)
        for i, (u, deleted) in enumerate(lines):
            if deleted == is_deleted:
                values[i] = (matrix.deleted if deleted else matrix.held)[u, list(events)]
        name = "deleted" if is_deleted else "held"
        figure.add_heatmap(
            x=edges,
            y=names,
            z=np.where(young, np.nan, values),
            name=name,
            colorscale=colours,
            meta={"dark": in_the_dark},
            # A cell may reach over many events; lines that are empty here need no names.
            text=[list(map(str, events)) if deleted == is_deleted else [] for _, deleted in lines],
            colorbar={"title": name, "x": place, "thickness": 12, "outlinewidth": 0},
            hoverongaps=False,
            hovertemplate="event %{text}, %{y}: %{z:.3f}<extra></extra>",
            **({"zmin": 0, "zmax": 1} if matrix.bounded else {}),
        )
    if young.any():
        figure.add_heatmap(
            x=edges,
            y=names,
            z=np.where(young, np.float32(0), np.float32(np.nan)),
            name="not learned yet",
            colorscale=[[0.0, look.NOT_YET], [1.0, look.NOT_YET]],
            showscale=False,
            hoverongaps=False,
            hovertemplate="%{y}: not learned yet<extra></extra>",
        )
    marks = [(e, unit) for e, unit in matrix.learned if e < matrix.lived]
    if len(marks) <= _MOST_MARKS:
        _mark_learned(figure, marks)
    look.mark_deletions(figure, [e for e in matrix.deletions if e < matrix.lived], above=True)
    look.style(figure, 130 + min(20 * len(lines), 1100))
    figure.update_layout(margin={"t": 30})
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, range=[len(names) - 0.5, -0.5], showgrid=False
    )
    look.event_axis(figure, matrix.num_events)
    figure.update_xaxes(showgrid=False, range=[-0.5, matrix.num_events - 0.5])
    return figure


def marks_in_words(figure: go.Figure, whose: str = "") -> str:
    """Return what the marks on a heat map mean, of those that are drawn.

    Args:
        figure: the heat map.
        whose: what to add to "deletion requests", such as `` of any seed``.
    """
    circles = " A circle: the unit is learned here." if any(t.name == "learned" for t in figure.data) else ""
    lines = f" Dotted lines: deletion requests{whose}." if figure.layout.shapes else ""
    return circles + lines


_MOST_MARKS = 120
"""Marks of learning that are drawn; of more, nothing else could be seen."""


def _mark_learned(figure: go.Figure, marks: list[tuple[int, str]]) -> None:
    """Put a mark where a unit is learned."""
    figure.add_scatter(
        x=[x for x, _ in marks],
        y=[y for _, y in marks],
        name="learned",
        mode="markers",
        marker={"symbol": "circle", "size": 6, "color": "#ffffff", "line": {"width": 1.5, "color": "#000000"}},
        hoverinfo="skip",
        showlegend=False,
    )


def kept_events(num_events: int, important: Sequence[int], limit: int) -> list[int]:
    """Return at most `limit` events, evenly spaced, with the last one and as many important ones as half of them.

    >>> kept_events(10, [3], 4)
    [0, 3, 4, 9]
    >>> kept_events(3, [1], 4)
    [0, 1, 2]
    """
    if num_events <= limit:
        return list(range(num_events))
    chosen = set(_spread(list(important), limit // 2))
    chosen |= set(_spread(list(range(num_events)), limit - len(chosen)))
    return sorted(chosen)


def _spread(items: list[int], count: int) -> list[int]:
    """Return `count` of the items, from the first to the last."""
    if len(items) <= count:
        return items
    if count < 2:
        return items[-count:] if count else []
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
