"""How figures look: colours, lines, grounds, axes, and the marks of deletions.

Colours are those of Okabe and Ito (2008), which people of any colour vision tell apart; strategies also differ by
marker and dash. Backgrounds are transparent and texts take the colour of the page, so that both themes work.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from lifelong.metrics.catalogue import BUILT_IN, Catalogue

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#808080"
HELD = [[0.0, "#fff7c9"], [0.35, "#8fd0c8"], [0.7, "#3a86c8"], [1.0, "#00395c"]]
DELETED = [[0.0, "#fbe6d4"], [0.5, "#E69F00"], [1.0, "#7a3000"]]
HELD_IN_THE_DARK = [[0.0, "#4a3b1a"], [0.35, "#33607a"], [0.7, "#5aa9e0"], [1.0, "#e6f5ff"]]
DELETED_IN_THE_DARK = [[0.0, "#3d2a1c"], [0.5, "#c97b10"], [1.0, "#ffe2b8"]]
NOT_YET = "rgba(128,128,128,0.28)"
"""Of a unit that is not learned yet: neither known nor unknown."""
REFERENCES = {"retrained": "diamond-open", "withheld": "square-open"}
"""Marks of references."""
DELETION = {"color": VERMILLION, "width": 1.5, "dash": "dot"}
MAX_ROWS = 400
"""Events that a heat map or a line through many panels shows at most."""
MAX_LINES = 100
"""Deletions up to which each gets a line; of more, nothing else could be seen."""
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY, VERMILLION)  # deletions are vermillion, so it comes last
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")
_GRID = "rgba(128,128,128,0.3)"


def colour(number: int) -> str:
    """Return the colour of the strategy of that number."""
    return _COLOURS[number % len(_COLOURS)]


def symbol(number: int) -> str:
    """Return the marker of the strategy of that number; with its colour it is no other's among the first 49.

    >>> len({(colour(n), symbol(n)) for n in range(49)})
    49
    """
    return _SYMBOLS[(number + number // len(_COLOURS)) % len(_SYMBOLS)]


def faded(number: int, opacity: float) -> str:
    """Return the colour of a strategy, so thin that what lies below can be seen.

    >>> faded(0, 0.2)
    'rgba(0,114,178,0.2)'
    """
    hexed = colour(number)
    red, green, blue = (int(hexed[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def line(number: int, with_markers: bool) -> dict[str, object]:
    """Return mode, line and marker of a strategy's trace."""
    return {
        "mode": "lines+markers" if with_markers else "lines",
        "line": {"color": colour(number), "width": 2, "dash": _DASHES[number // len(_COLOURS) % len(_DASHES)]},
        "marker": {"symbol": symbol(number), "size": 7, "color": colour(number)},
    }


def reference(model: str, strategy: str, number: int, size: int) -> dict[str, object]:
    """Return name, legend, mode and marker of what a reference of a strategy scores: see `REFERENCES`."""
    return {
        "name": f"{strategy}: {model}",
        "legendgroup": strategy,
        "showlegend": False,
        "mode": "markers",
        "marker": {"symbol": REFERENCES[model], "size": size, "color": colour(number)},
    }


def references_in(figure: go.Figure) -> list[str]:
    """Return the references that a figure shows."""
    names = [trace.name or "" for trace in figure.data]
    return [model for model in REFERENCES if any(name.endswith(f": {model}") for name in names)]


def marks_of_references(figure: go.Figure) -> str:
    """Return what the marks of references mean, of those that a figure shows."""
    told = {
        "retrained": " Open diamonds: the retrained reference, which never saw the data; a strategy should be where "
        "its own is.",
        "withheld": " Open squares: the withheld reference, for which the data merely stopped coming.",
    }
    return "".join(told[model] for model in references_in(figure))


def name_references(figure: go.Figure) -> None:
    """Put the marks of the references that a figure shows into the legend."""
    for model in references_in(figure):
        marker = {"symbol": REFERENCES[model], "size": 11, "color": GREY}
        figure.add_scatter(x=[None], y=[None], name=f"{model} reference", mode="markers", marker=marker)


def mark_deletions(figure: go.Figure, events: Sequence[int], above: bool = False, num_panels: int = 1) -> None:
    """Draw a vertical line at every event, unless there are more than `MAX_LINES`."""
    if len(events) <= MAX_LINES:
        mark = {"type": "line", "y0": 0, "y1": 1, "line": DELETION, "layer": "above" if above else "below"}
        mark["opacity"] = max(0.2, min(1.0, 20 / max(1, len(events))))
        axes = ["", *range(2, num_panels + 1)]
        marks = [mark | {"xref": f"x{axis}", "yref": f"y{axis} domain"} for axis in axes]
        figure.update_layout(shapes=[m | {"x0": event, "x1": event} for m in marks for event in events])


def event_axis(figure: go.Figure, num_events: int) -> None:
    """Let a figure span the whole life, with whole numbers for ticks."""
    ticks = {"dtick": 1} if num_events <= 16 else {"tickformat": "d"}
    figure.update_xaxes(title="event", range=[-0.7, num_events - 0.3], **ticks)


def style(figure: go.Figure, height: int) -> None:
    """Give a figure its height, a clear ground, and what else all have in common."""
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
    figure.update_xaxes(**axis, zeroline=False)
    figure.update_yaxes(**axis)


def score_range(measure: str, catalogue: Catalogue = BUILT_IN) -> dict[str, object]:
    """Return the range of an axis of scores, if the measure has one."""
    return {"range": [-0.03, 1.03]} if catalogue.is_share(measure) else {}


def words(metric: str) -> str:
    """Return a metric's name as people read it."""
    return metric.replace("_", " ")
