"""Two charts of one strategy: what is known of every unit, and of the data of every request, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

MOST_EVENTS = 350
"""Columns of the heat map: more cannot be told apart on a screen."""
MOST_REQUESTS = 100
"""Lines of requests: thousands of them would be a chart of hundreds of megabytes."""

Curves = Mapping[str, Mapping[int, float | None]]
"""Scores by what they are of, and by event."""


def units_chart(curves: Curves, measure: str) -> Any:
    """Return the matrix of scores, a row for each unit, a column for each event after which it was measured."""
    events = _thinned(sorted({event for scores in curves.values() for event in scores}), MOST_EVENTS)
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
    """Return the score on what requests deleted, from the request on, as a line for each of at most `MOST_REQUESTS`."""
    figure = import_module("plotly.graph_objects").Figure()
    for name in _thinned(list(curves), MOST_REQUESTS):
        scores = dict(sorted(curves[name].items()))
        figure.add_scatter(x=list(scores), y=list(scores.values()), name=name, mode="lines+markers")
    figure.update_layout(xaxis_title="event", yaxis_title=f"{measure} on deleted data", showlegend=True)
    return figure


def _thinned(found: list[T], most: int) -> list[T]:
    """Return every so many of what was found, at most `most`, with the last among them."""
    step = -(-len(found) // most)
    return found[::-step][::-1]
