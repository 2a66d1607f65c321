"""Two charts of one strategy: what is known of every unit, and of the data of every request, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

MOST_EVENTS = 350
"""Columns of the heat map: more cannot be told apart on a screen."""

Curves = Mapping[str, Mapping[int, float | None]]
"""Scores by what they are of, and by event."""


def units_chart(curves: Curves, measure: str) -> Any:
    """Return the matrix of scores, a row for each unit, a column for each event after which it was measured."""
    events = sorted({event for scores in curves.values() for event in scores})
    step = -(-len(events) // MOST_EVENTS)
    events = events[::-step][::-1]  # the last one is there
    figure = import_module("plotly.graph_objects").Figure()
    figure.add_heatmap(
        x=[str(event) for event in events],
        y=list(curves),
        z=[[scores.get(event) for event in events] for scores in curves.values()],
        colorscale="Blues",
        colorbar={"title": measure},
        hovertemplate="%{y} after event %{x}: %{z:.3f}<extra></extra>",
    )
    figure.update_layout(xaxis={"title": "event", "type": "category"}, yaxis={"autorange": "reversed"})
    return figure


def requests_chart(curves: Curves, measure: str) -> Any:
    """Return the score on what each request deleted, from the request on, as a line for each."""
    figure = import_module("plotly.graph_objects").Figure()
    for name, scores in curves.items():
        figure.add_scatter(x=sorted(scores), y=[scores[e] for e in sorted(scores)], name=name, mode="lines+markers")
    figure.update_layout(xaxis_title="event", yaxis_title=f"{measure} on deleted data", showlegend=True)
    return figure
