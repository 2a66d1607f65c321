"""The trade-off: how much is retained against how far the model is from one that never saw the deleted data."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lifelong.report import look
from lifelong.report.lives import Point
from lifelong.report.spread import Spread, spread


def pareto(distance: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return which points are on the front (bool): no other is at least as near and as good, and better in one.

    Args:
        distance: ``[N]``, less is better.
        score: ``[N]``, more is better.

    >>> pareto(np.array([0.0, 0.1, 0.2]), np.array([0.5, 0.9, 0.8])).tolist()
    [True, True, False]
    """
    nearer, better = distance[:, None] <= distance, score[:, None] >= score
    strictly = (distance[:, None] < distance) | (score[:, None] > score)
    return np.logical_not((nearer & better & strictly).any(axis=0))


def by_access(point: Point) -> dict[str, list[str]]:
    """Return the strategies that have both numbers, grouped by what they were allowed to read."""
    groups: dict[str, list[str]] = {}
    for _, name in point.begun:
        known = (np.isfinite(point.ends(name, key)) for key in ("retained", "distance"))
        if name in point.access and all(k.any() for k in known):
            groups.setdefault(point.access[name], []).append(name)
    return groups


def trade_off(point: Point) -> go.Figure:
    """Draw a row for every access, so that nothing is ranked together that read different data."""
    groups = by_access(point)
    keys = {
        f"absolute gap in {look.words(f'forget_{point.measure}')} to retrained": "distance",
        "Jensen-Shannon divergence to retrained (bits)": "js",
    }
    figure = make_subplots(
        rows=max(1, len(groups)),
        cols=2,
        shared_xaxes="columns",
        shared_yaxes="all",
        vertical_spacing=min(0.25, 70 / (260 * max(1, len(groups)))),
        horizontal_spacing=0.05,
        subplot_titles=[title for access in groups for title in (access, access)],
    )
    numbers = {name: number for number, name in point.begun}
    for row, names in enumerate(groups.values(), 1):
        for column, key in enumerate(keys.values(), 1):
            _panel(figure, point, {n: numbers[n] for n in names}, key, {"row": row, "col": column}, column == 1)
    for label, symbol in (("on the front", "circle"), ("dominated", "circle-open")):
        figure.add_scatter(
            x=[None], y=[None], name=label, mode="markers", marker={"symbol": symbol, "size": 11, "color": look.GREY}
        )
    look.style(figure, 130 + 260 * max(1, len(groups)))
    figure.update_yaxes(**look.score_range(point.measure, point.catalogue))
    for column, (title, key) in enumerate(keys.items(), 1):
        farthest = max(
            (float(np.nanmax(point.ends(n, key), initial=0)) for ns in groups.values() for n in ns), default=0
        )
        figure.update_xaxes(range=[-0.05 * (farthest or 1), 1.08 * (farthest or 1)], col=column)
        figure.update_xaxes(title=title, row=len(groups), col=column)
    figure.update_yaxes(title=look.words(f"retain_{point.measure}"), col=1)
    return figure


def _panel(
    figure: go.Figure, point: Point, numbers: dict[str, int], key: str, at: dict[str, int], in_legend: bool
) -> None:
    """Add the strategies of one access, and their front."""
    far = {name: spread(point.ends(name, key)) for name in numbers}
    retained = {name: spread(point.ends(name, "retained")) for name in numbers}
    names = [name for name in numbers if np.isfinite(far[name].mean) and np.isfinite(retained[name].mean)]
    distance = np.array([far[name].mean for name in names])
    score = np.array([retained[name].mean for name in names])
    front = pareto(distance, score)
    for name, optimal in zip(names, front, strict=True):
        number = numbers[name]
        figure.add_scatter(
            x=[float(far[name].mean)],
            y=[float(retained[name].mean)],
            error_x=_bars(far[name], number),
            error_y=_bars(retained[name], number),
            name=name,
            legendgroup=name,
            showlegend=in_legend,
            mode="markers",
            marker={
                "symbol": look.symbol(number) + ("" if optimal else "-open"),
                "size": 12,
                "color": look.colour(number),
                "line": {"width": 2, "color": look.colour(number)},
            },
            cliponaxis=False,
            hovertemplate="distance %{x:.4g}, retained %{y:.4g}<extra>%{fullData.name}</extra>",
            **at,
        )
    if front.sum() > 1:
        order = np.lexsort((score[front], distance[front]))
        figure.add_scatter(
            x=distance[front][order],
            y=score[front][order],
            name="Pareto front",
            showlegend=False,
            mode="lines",
            line={"color": look.GREY, "width": 1.5, "dash": "dash", "shape": "hv"},
            hoverinfo="skip",
            **at,
        )


def _bars(band: Spread, number: int) -> dict[str, object]:
    return {
        "type": "data",
        "array": [float(band.high - band.mean)],
        "arrayminus": [float(band.mean - band.low)],
        "thickness": 1.2,
        "width": 3,
        "color": look.colour(number),
    }
