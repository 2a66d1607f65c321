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


def heat_map(matrix: Matrix, events: Sequence[int]) -> go.Figure:
    """Draw a matrix at the events given; what is deleted of a unit has a row and a colour scale of its own."""
    has_deleted = np.isfinite(matrix.deleted).any(axis=1)
    lines = [
        (u, deleted) for u in range(len(matrix.units)) for deleted in (False, True) if not deleted or has_deleted[u]
    ]
    names = [f"{matrix.units[u]}, deleted" if deleted else matrix.units[u] for u, deleted in lines]
    figure = go.Figure()
    for is_deleted, colours, place in ((False, look.HELD, 1.01), (True, look.DELETED, 1.10)):
        if is_deleted and not has_deleted.any():
            continue
        values = np.full((len(lines), len(events)), np.nan, dtype=np.float32)
        for i, (u, deleted) in enumerate(lines):
            if deleted == is_deleted:
                values[i] = (matrix.deleted if deleted else matrix.held)[u, list(events)]
        name = "deleted" if is_deleted else "held"
        figure.add_heatmap(
            x=list(events),
            y=names,
            z=values,
            name=name,
            colorscale=colours,
            colorbar={"title": name, "x": place, "thickness": 12, "outlinewidth": 0},
            hoverongaps=False,
            hovertemplate="event %{x}, %{y}: %{z:.3f}<extra></extra>",
            **({"zmin": 0, "zmax": 1} if matrix.bounded else {}),
        )
    _mark_learned(figure, [(e, unit) for e, unit in matrix.learned if e < matrix.lived])
    look.mark_deletions(figure, [e for e in matrix.deletions if e < matrix.lived], above=True)
    look.style(figure, 130 + min(20 * len(lines), 1100))
    figure.update_layout(margin={"t": 30})
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, range=[len(names) - 0.5, -0.5], showgrid=False
    )
    look.event_axis(figure, matrix.num_events)
    figure.update_xaxes(showgrid=False, range=[-0.5, matrix.num_events - 0.5])
    return figure


def _mark_learned(figure: go.Figure, marks: list[tuple[int, str]]) -> None:
    """Put a mark where a unit is learned: what stands before it is knowledge of what was never taught."""
    crowded = len(marks) > 120
    figure.add_scatter(
        x=[x for x, _ in marks],
        y=[y for _, y in marks],
        name="learned",
        mode="markers",
        marker={
            "symbol": "circle",
            "size": 3 if crowded else 6,
            "color": "#ffffff",
            "line": {"width": 0.5 if crowded else 1.5, "color": "#000000"},
        },
        hoverinfo="skip",
        showlegend=False,
    )
