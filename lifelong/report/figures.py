"""The figures of a report: one function each, from the facts to a plotly figure.

Colours are those of Okabe and Ito (2008), which people of any colour vision tell apart; strategies also differ by
marker and dash. Backgrounds are transparent and texts take the colour of the page, so that both themes work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lifelong.report.facts import Facts, Requested, Series, kept_events

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#808080"
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, GREY)
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")
_DELETION = {"color": VERMILLION, "width": 1.5, "dash": "dot"}
_GRID = "rgba(128,128,128,0.3)"
_HELD = [[0.0, "#dcecf7"], [0.5, "#56B4E9"], [1.0, "#00395c"]]
_DELETED = [[0.0, "#fbe6d4"], [0.5, "#E69F00"], [1.0, "#7a3000"]]

MAX_ROWS = 400
"""Events that a heat map or a line through many panels shows at most."""
MAX_PANELS = 24
"""Requests that get a panel of their own."""
_MAX_CELLS = 500_000


def timeline(facts: Facts) -> go.Figure:
    """Draw what is learned and what must go: units and scopes against events."""
    scopes = [s for s in ("sample", "user", "class", "task") if any(s in r.scopes for r in facts.requested)]
    figure = go.Figure()
    for again, name, symbol, colour in ((False, "learn", "square", BLUE), (True, "learn again", "star", GREEN)):
        marks = [(e, unit) for e in facts.learned if (e.incarnation > 0) == again for unit in e.units]
        if marks:
            figure.add_scatter(
                x=[e.event for e, _ in marks],
                y=[unit for _, unit in marks],
                text=[f"{e.name}, {e.samples} samples" for e, _ in marks],
                name=name,
                mode="markers",
                marker={"symbol": symbol, "color": colour, "size": 11},
                hovertemplate="event %{x}: %{text}<extra>%{fullData.name}</extra>",
            )
    for name, symbol, marked in (
        ("deletion request", "x", [(r, f"request: {s}") for r in facts.requested for s in r.scopes]),
        ("deleted from a unit", "x-thin-open", [(r, unit) for r in facts.requested for unit in r.units]),
    ):
        if marked:
            figure.add_scatter(
                x=[r.event for r, _ in marked],
                y=[y for _, y in marked],
                text=[_about(r) for r, _ in marked],
                name=name,
                mode="markers",
                marker={"symbol": symbol, "color": VERMILLION, "size": 10, "line": {"width": 2, "color": VERMILLION}},
                hovertemplate="event %{x}: %{text}<extra>%{fullData.name}</extra>",
            )
    rows = [f"request: {s}" for s in scopes] + list(reversed(facts.units))
    _mark_deletions(figure, facts.requested)
    _style(figure, 130 + min(18 * len(rows), 900))
    figure.update_yaxes(categoryorder="array", categoryarray=rows, range=[-0.7, len(rows) - 0.3])
    _event_axis(figure, facts)
    return figure


def average_score(facts: Facts) -> go.Figure:
    """Draw the score over everything that should be known, per strategy over events."""
    figure = go.Figure()
    for number, name in enumerate(facts.strategies):
        rows = facts.series[name].rows(f"average_{facts.measure}", "stream")
        figure.add_scatter(
            x=list(rows), y=[r.value for r in rows.values()], name=name, **_line(number, len(rows) <= 60)
        )
    _mark_deletions(figure, facts.requested)
    if facts.requested:
        figure.add_scatter(
            x=[r.event for r in facts.requested],
            y=[0.03] * len(facts.requested),
            text=[_about(r) for r in facts.requested],
            name="deletion request",
            mode="markers",
            marker={"symbol": "x", "color": VERMILLION, "size": 8},
            hovertemplate="%{text}<extra></extra>",
            yaxis="y2",
        )
    _style(figure, 420)
    figure.update_layout(
        hovermode="x unified",
        yaxis={"title": _words(f"average_{facts.measure}"), **_range(facts)},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )
    _event_axis(figure, facts)
    return figure


def matrix(facts: Facts, strategy: str) -> go.Figure:
    """Draw the score of every unit after every event.

    What is deleted of a unit has a row and a colour scale of its own.
    """
    series, measure = facts.series[strategy], facts.measure
    deleted = set(series.subjects(f"deleted_{measure}"))
    lines = [(unit, gone) for unit in facts.units for gone in (False, True) if not gone or unit in deleted]
    names = [f"{unit}, deleted" if gone else unit for unit, gone in lines]
    events = matrix_events(facts, strategy)
    figure = go.Figure()
    for gone, colours, place in ((False, _HELD, 1.01), (True, _DELETED, 1.10)):
        if gone and not deleted:
            continue
        values = np.full((len(lines), len(events)), np.nan, dtype=np.float32)
        for i, (unit, is_deleted) in enumerate(lines):
            if is_deleted == gone:
                rows = series.rows(f"deleted_{measure}" if gone else measure, unit)
                values[i] = [_nan(rows[e].value) if e in rows else np.nan for e in events]
        figure.add_heatmap(
            x=events,
            y=names,
            z=values,
            name="deleted" if gone else "held",
            colorscale=colours,
            colorbar={"title": "deleted" if gone else "held", "x": place, "thickness": 12, "outlinewidth": 0},
            hoverongaps=False,
            hovertemplate="event %{x}, %{y}: %{z:.3f}<extra></extra>",
            **({"zmin": 0, "zmax": 1} if measure == "accuracy" else {}),
        )
    _mark_learned(figure, facts, series.lived)
    _mark_deletions(figure, [r for r in facts.requested if r.event < series.lived], above=True)
    _style(figure, 130 + min(20 * len(lines), 1100))
    figure.update_layout(margin={"t": 30})
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, range=[len(names) - 0.5, -0.5], showgrid=False
    )
    _event_axis(figure, facts)
    figure.update_xaxes(showgrid=False, range=[-0.5, facts.num_events - 0.5])
    return figure


def requests(facts: Facts) -> go.Figure:
    """Draw the score on the forget set of each request over events, with what the references score."""
    chosen = panels(facts)
    columns = 2 if len(chosen) > 1 else 1
    count = -(-len(chosen) // columns)
    figure = make_subplots(
        rows=count,
        cols=columns,
        shared_yaxes=True,
        vertical_spacing=min(0.25, 70 / (250 * count)),
        horizontal_spacing=0.05,
        subplot_titles=[_about(r) for r in chosen],
    )
    metric = f"forget_{facts.measure}"
    for panel, request in enumerate(chosen):
        at = {"row": panel // columns + 1, "col": panel % columns + 1}
        for number, name in enumerate(facts.strategies):
            series = facts.series[name]
            _request_line(figure, series, request, metric, number, name, panel == 0, at)
            for model, symbol in (("retrained", "diamond-open"), ("withheld", "square-open")):
                found = series.rows(metric, request.name, model)
                if found:
                    figure.add_scatter(
                        x=list(found),
                        y=[r.value for r in found.values()],
                        name=f"{name}: {model}",
                        legendgroup=name,
                        showlegend=False,
                        mode="markers",
                        marker={"symbol": symbol, "size": 11, "color": _COLOURS[number % len(_COLOURS)]},
                        **at,
                    )
        figure.add_vline(x=request.event, line=_DELETION, **at)
    for model, symbol in (("retrained reference", "diamond-open"), ("withheld reference", "square-open")):
        figure.add_scatter(
            x=[None], y=[None], name=model, mode="markers", marker={"symbol": symbol, "size": 11, "color": GREY}
        )
    _style(figure, 130 + 250 * count)
    figure.update_yaxes(**_range(facts))
    _event_axis(figure, facts)
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="event", row=count)
    return figure


def costs(facts: Facts) -> go.Figure:
    """Draw what every event cost: optimizer steps, seconds, and the size of what is kept."""
    names = ("optimizer steps", "seconds", "state in bytes")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=names)
    for number, name in enumerate(facts.strategies):
        series = facts.series[name]
        steps = {e: r.value for e, r in series.rows("steps", "event").items()}
        state = {e: r.value for e, r in series.rows("state_bytes", "event").items()}
        measured: list[dict[int, float | None]] = [steps, {**facts.seconds[name]}, state]
        for place, values in enumerate(measured, 1):
            figure.add_scatter(
                x=list(values),
                y=list(values.values()),
                name=name,
                legendgroup=name,
                showlegend=place == 1,
                row=place,
                col=1,
                **_line(number, len(values) <= 60),
            )
    _mark_deletions(figure, facts.requested)
    _style(figure, 760)
    figure.update_yaxes(rangemode="tozero")
    _event_axis(figure, facts)
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="event", row=3)
    return figure


def matrix_events(facts: Facts, strategy: str) -> list[int]:
    """Return the events that a heat map shows: all, or so few that the file stays small and the cells visible."""
    cells_per_event = 4 * len(facts.units) * len(facts.strategies)  # two traces over held and deleted rows
    limit = max(50, min(MAX_ROWS, _MAX_CELLS // cells_per_event))
    return kept_events(facts.series[strategy].lived, [r.event for r in facts.requested], limit)


def panels(facts: Facts) -> list[Requested]:
    """Return the requests that get a panel: all that have been served, or evenly spaced ones if they are too many."""
    lived = max((facts.series[name].lived for name in facts.strategies), default=0)
    served = [r for r in facts.requested if r.event < lived]
    return [served[i] for i in kept_events(len(served), [], MAX_PANELS)]


def _request_line(
    figure: go.Figure,
    series: Series,
    request: Requested,
    metric: str,
    number: int,
    name: str,
    in_legend: bool,
    at: dict[str, int],
) -> None:
    rows = series.rows(metric, request.name)
    events = list(rows)
    kept = [events[i] for i in kept_events(len(events), [], MAX_ROWS // 2)]
    figure.add_scatter(
        x=kept,
        y=[rows[e].value for e in kept],
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        **_line(number, len(kept) <= 60),
        **at,
    )


def _line(number: int, with_markers: bool) -> dict[str, object]:
    colour = _COLOURS[number % len(_COLOURS)]
    return {
        "mode": "lines+markers" if with_markers else "lines",
        "line": {"color": colour, "width": 2, "dash": _DASHES[number // len(_COLOURS) % len(_DASHES)]},
        "marker": {"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 7, "color": colour},
    }


def _mark_learned(figure: go.Figure, facts: Facts, lived: int) -> None:
    """Put a mark where a unit is learned: what stands before it is knowledge of what was never taught."""
    marks = [(e.event, unit) for e in facts.learned if e.event < lived for unit in e.units]
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


def _mark_deletions(figure: go.Figure, requested: Sequence[Requested], above: bool = False) -> None:
    """Draw a vertical line at every request, unless there are so many that nothing else could be seen."""
    if len(requested) <= MAX_ROWS:
        layer = "above" if above else "below"
        mark = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "line": _DELETION, "layer": layer}
        mark["opacity"] = max(0.2, min(1.0, 20 / max(1, len(requested))))
        figure.update_layout(shapes=[mark | {"x0": r.event, "x1": r.event} for r in requested])


def _event_axis(figure: go.Figure, facts: Facts) -> None:
    """Let every figure span the whole life, with whole numbers for ticks."""
    ticks = {"dtick": 1} if facts.num_events <= 16 else {"tickformat": "d"}
    figure.update_xaxes(title="event", range=[-0.7, facts.num_events - 0.3], **ticks)


def _style(figure: go.Figure, height: int) -> None:
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID, "automargin": True}
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": ORANGE},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#1b1b1b"}},
        legend={"orientation": "h", "x": 0, "y": 1 + 25 / height, "yanchor": "bottom"},
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def _range(facts: Facts) -> dict[str, object]:
    return {"range": [-0.03, 1.03]} if facts.measure == "accuracy" else {}


def _about(request: Requested) -> str:
    return f"{request.name}: {request.what}" + (
        f" ({request.samples} samples)" if request.scopes != ("sample",) else ""
    )


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
