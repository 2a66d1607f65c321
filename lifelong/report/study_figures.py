"""The figures of a study's report: every strategy over events and requests, as mean and band over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lifelong.report import look
from lifelong.report.lives import Point
from lifelong.report.look import GREY, MAX_ROWS
from lifelong.report.matrix import heat_map, kept_events
from lifelong.report.spread import Spread, spread

MAX_DODGED = 24
"""Requests up to which every one gets a place of its own, with the strategies side by side."""
_MAX_CELLS = 500_000
_OPACITY = 0.18
_BAND = "%{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]"

Place = dict[str, int]


def average(point: Point) -> go.Figure:
    """Draw the score over everything that should be known."""
    figure = go.Figure()
    _over_events(figure, point, "average", {}, in_legend=True)
    look.mark_deletions(figure, point.deletions)
    look.style(figure, 420)
    figure.update_layout(
        hovermode="x unified",
        yaxis={
            "title": look.words(f"average_{point.measure}"),
            **look.score_range(point.measure, point.catalogue),
        },
    )
    look.event_axis(figure, point.num_events)
    return figure


def relapse(point: Point) -> go.Figure:
    """Draw how far deleted data has come back; there is a number after every request, and at the end."""
    figure = go.Figure()
    _over_events(figure, point, "relapse", {}, in_legend=True)
    figure.update_traces(mode="lines+markers", connectgaps=True, selector=lambda trace: trace.fill is None)
    look.mark_deletions(figure, point.deletions)
    look.style(figure, 360)
    figure.update_layout(hovermode="x unified", yaxis={"title": "relapse"})
    look.event_axis(figure, point.num_events)
    return figure


def by_age(point: Point) -> go.Figure:
    """Draw what is known of deleted data by the events since its request, and how that changed beside retraining."""
    titles = (
        look.words(f"forget_{point.measure}, by events since the request"),
        "change since then, less the retrained's",
    )
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09, subplot_titles=titles)
    for number, name in point.begun:
        for column, key in enumerate(("forget", "relapse"), 1):
            band = spread(point.by_age(name, key))
            ages = np.flatnonzero(band.count).tolist()
            at = {"row": 1, "col": column}
            _curve(figure, number, name, ages, _at(band, ages), at, in_legend=column == 1)
        band = spread(point.by_age(name, "retrained"))
        ages = np.flatnonzero(band.count).tolist()
        figure.add_scatter(
            x=ages,
            y=band.mean[ages],
            **look.reference("retrained", name, number, 9),
            row=1,
            col=1,
        )
    look.name_references(figure)
    look.style(figure, 420)
    figure.update_xaxes(title="events since the request", rangemode="tozero")
    figure.update_yaxes(col=1, **look.score_range(point.measure, point.catalogue))
    return figure


def requests(point: Point) -> go.Figure:
    """Draw the score on the forget set right after each request, with what the references score there."""
    figure = go.Figure()
    for number, name in point.begun:
        _over_requests(figure, point, number, name, "forget", {}, in_legend=True)
        for model in look.REFERENCES:
            band = spread(point.by_request(name, model))
            if band.count.any():
                figure.add_scatter(
                    x=_places(point, number),
                    y=band.mean,
                    customdata=_band_data(band),
                    **look.reference(model, name, number, 13),
                    marker_line_width=1.5,
                    hovertemplate=_BAND + "<extra>%{fullData.name}</extra>",
                )
    look.name_references(figure)
    look.style(figure, 440)
    figure.update_layout(
        yaxis={
            "title": look.words(f"forget_{point.measure}"),
            **look.score_range(point.measure, point.catalogue),
        }
    )
    _request_axis(figure, point)
    return figure


def request_costs(point: Point) -> go.Figure:
    """Draw what each request cost, how long it waited, and how long its data stayed in the model."""
    panels = {
        "optimizer steps": "steps",
        "seconds": "seconds",
        "latency (learn events)": "latency",
        "exposure (learn events)": "exposure",
    }
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=list(panels), vertical_spacing=0.2, horizontal_spacing=0.08, shared_xaxes=True
    )
    for panel, key in enumerate(panels.values()):
        at = {"row": panel // 2 + 1, "col": panel % 2 + 1}
        for number, name in point.begun:
            _over_requests(figure, point, number, name, key, at, in_legend=panel == 0)
    look.style(figure, 560)
    figure.update_yaxes(rangemode="tozero")
    _request_axis(figure, point, names_only=True)
    figure.update_xaxes(title=None, row=1)
    return figure


def life_costs(point: Point) -> go.Figure:
    """Draw what a life cost so far, and how much a strategy keeps."""
    panels = {"optimizer steps so far": "steps", "seconds so far": "seconds", "state in bytes": "state"}
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=list(panels)
    )
    for row, key in enumerate(panels.values(), 1):
        _over_events(figure, point, key, {"row": row, "col": 1}, in_legend=row == 1, summed=key != "state")
    look.mark_deletions(figure, point.deletions, num_panels=len(panels))
    look.style(figure, 760)
    figure.update_yaxes(rangemode="tozero")
    look.event_axis(figure, point.num_events)
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="event", row=len(panels))
    return figure


def mean_matrix(point: Point, strategy: str, num_figures: int) -> go.Figure:
    """Draw the mean over seeds of the score of every unit after every event.

    Args:
        point: of the grid.
        strategy: whose.
        num_figures: heat maps on the page, which share the room there is.
    """
    matrix = point.matrix(strategy)
    limit = max(50, min(MAX_ROWS, _MAX_CELLS // max(1, 4 * len(matrix.units) * num_figures)))
    return heat_map(matrix, matrix.shown(limit))


def _over_events(figure: go.Figure, point: Point, key: str, at: Place, in_legend: bool, summed: bool = False) -> None:
    """Add a mean line with its band for every strategy."""
    events = kept_events(point.num_events, point.deletions, MAX_ROWS)
    for number, name in point.begun:
        values = point.by_event(name, key)
        band = spread(np.cumsum(values, axis=1) if summed else values)
        _curve(figure, number, name, events, _at(band, events), at, in_legend)


def _over_requests(
    figure: go.Figure, point: Point, number: int, name: str, key: str, at: Place, in_legend: bool
) -> None:
    """Add a strategy's numbers at every request: points side by side, or a line if there are many requests."""
    band, requests = spread(point.by_request(name, key)), point.requests
    if len(requests) > MAX_DODGED:
        kept = kept_events(len(requests), [], MAX_ROWS)
        _curve(figure, number, name, kept, _at(band, kept), at, in_legend)
        return
    figure.add_scatter(
        x=_places(point, number),
        y=band.mean,
        error_y={
            "type": "data",
            "array": band.high - band.mean,
            "arrayminus": band.mean - band.low,
            "thickness": 1.5,
            "width": 4,
        },
        customdata=_band_data(band),
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        hovertemplate=_BAND + "<extra>%{fullData.name}</extra>",
        cliponaxis=False,
        **{**look.line(number, with_markers=True), "mode": "markers"},
        **at,
    )


def _curve(
    figure: go.Figure, number: int, name: str, places: Sequence[int], band: Spread, at: Place, in_legend: bool
) -> None:
    if (band.high > band.low).any():
        x, y = _outline(np.asarray(places), band)
        figure.add_scatter(
            x=x,
            y=y,
            name=f"{name}, band",
            legendgroup=name,
            showlegend=False,
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=look.faded(number, _OPACITY),
            hoverinfo="skip",
            **at,
        )
    figure.add_scatter(
        x=list(places),
        y=band.mean,
        customdata=_band_data(band),
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        hovertemplate=_BAND + "<extra>%{fullData.name}</extra>",
        **look.line(number, len(places) <= 60),
        **at,
    )


def _outline(places: np.ndarray, band: Spread) -> tuple[list[float | None], list[float | None]]:
    """Return the outline of a band, along the low side and back along the high one, of every stretch without gap."""
    x: list[float | None] = []
    y: list[float | None] = []
    with_value = np.flatnonzero(np.isfinite(band.mean))
    for stretch in np.split(with_value, np.flatnonzero(np.diff(with_value) > 1) + 1):
        if len(stretch):
            x += [*places[stretch].tolist(), *places[stretch[::-1]].tolist(), None]
            y += [*band.low[stretch].tolist(), *band.high[stretch[::-1]].tolist(), None]
    return x, y


def _places(point: Point, number: int) -> np.ndarray:
    """Return where a strategy's numbers stand on the axis of requests."""
    place = [n for n, _ in point.begun].index(number)
    num_requests, num_strategies = len(point.requests), len(point.begun)
    aside = 0.0 if num_requests > MAX_DODGED else 0.7 * ((place + 0.5) / num_strategies - 0.5)
    return np.arange(num_requests) + aside


def _request_axis(figure: go.Figure, point: Point, names_only: bool = False) -> None:
    requests = point.requests
    if len(requests) > MAX_DODGED:
        figure.update_xaxes(title="request", range=[-0.7, len(requests) - 0.3], tickformat="d")
        return
    few = len(requests) <= 8 and not names_only
    figure.update_xaxes(
        title="request",
        range=[-0.6, len(requests) - 0.4],
        tickvals=list(range(len(requests))),
        ticktext=[f"{r.name}<br>{_short(r.what)}" if few else r.name for r in requests],
        showgrid=False,
    )
    # lines between requests, so that it is clear which points belong together
    for place in range(1, len(requests)):
        figure.add_vline(x=place - 0.5, line={"color": GREY, "width": 0.5, "dash": "dot"})


def _short(what: str) -> str:
    return what if len(what) <= 28 else f"{what[:26]}…"


def _at(band: Spread, places: Sequence[int]) -> Spread:
    chosen = list(places)
    return Spread(band.mean[chosen], band.low[chosen], band.high[chosen], band.count[chosen])


def _band_data(band: Spread) -> np.ndarray:
    return np.stack([band.low, band.high], axis=-1)
