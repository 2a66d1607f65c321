"""The figure of `lifelong capacity`: lifetime, cost and retention, closed forms as lines and simulation as marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lifelong.capacity.sizing import Measured, Sized
from lifelong.capacity.theory import best_prefix
from lifelong.files import write_atomically

_MAX_ORDERS = 10  # inclusion and exclusion over more has too many terms


def write_figure(sized: Sequence[Sized], file: Path, runs: Sequence[Measured] = ()) -> None:
    """Write a page that needs no network: one panel each for lifetime, cost, busy trainer and retention.

    Args:
        sized: the systems.
        file: where to.
        runs: what requests cost real runs; they stand beside the systems in the panel of cost.
    """
    from plotly.subplots import make_subplots

    from lifelong.report import look

    titles = (
        "requests per outage",
        "sample visits per request",
        "share of the trainer's time",
        "live share of a shard",
    )
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.16)
    names = [label(s) for s in sized]
    panels = (
        (1, 1, [s.lifetime for s in sized], [s.lifetime_simulated for s in sized]),
        (1, 2, [s.visits for s in sized], [s.visits_simulated for s in sized]),
        (2, 1, [None] * len(sized), [s.busy for s in sized]),
    )
    for row, col, theory, simulated in panels:
        first = (row, col) == (1, 1)
        for values, name, symbol, colour in (
            (theory, "closed form", "line-ew-open", look.BLUE),
            (simulated, "simulated", "circle", look.ORANGE),
        ):
            marker = {"symbol": symbol, "size": 14, "color": colour, "line": {"width": 3, "color": colour}}
            figure.add_scatter(
                x=names, y=values, name=name, mode="markers", marker=marker, showlegend=first, row=row, col=col
            )
    for values, name, symbol, colour in (
        ([r.expected / r.requests for r in runs], "closed form", "line-ew-open", look.BLUE),
        ([r.visits / r.requests for r in runs], "real run", "diamond", look.GREEN),
    ):
        if runs:
            marker = {"symbol": symbol, "size": 14, "color": colour, "line": {"width": 3, "color": colour}}
            where = [f"{r.strategy} (run)" for r in runs]
            new = name == "real run"
            figure.add_scatter(
                x=where, y=values, name=name, mode="markers", marker=marker, showlegend=new, row=1, col=2
            )
    for number, s in enumerate(sized):
        orders = s.system.orders() if s.system.method == "s3t" else []
        if s.system.distribution == "uniform" and 0 < len(orders) <= _MAX_ORDERS:
            horizon = np.unique(np.geomspace(1, 4 * s.system.shards * s.system.slices, 30).round().astype(int))
            share = [best_prefix(orders, s.system.shards, int(r)) / s.system.slices for r in horizon]
            trace = look.line(number, with_markers=False)
            figure.add_scatter(x=horizon, y=share, name=names[number], **trace, row=2, col=2)
    look.style(figure, 800)
    figure.update_xaxes(title="requests since training", type="log", row=2, col=2)
    figure.update_yaxes(type="log", row=1, col=2)
    write_atomically(file, figure.to_html(include_plotlyjs=True).encode())


def label(sized: Sized) -> str:
    """Return a short name of a system."""
    s = sized.system
    name = f"{s.method} m={s.shards} L={s.slices}" + (f" B={s.sequences}" if s.method == "s3t" else "")
    return name + (f" K={s.together}" if s.together > 1 else "")
