"""What strategies trained on that choose their data: which score decided in each cluster, and what each skill got."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from lifelong.report import look
from lifelong.report.facts import Facts
from strategies.outcome import SELECTORS

_COLOURS = (look.BLUE, look.ORANGE, look.GREEN, look.PURPLE, look.SKY, look.GREY)


def described(facts: Facts) -> list[str]:
    """Return the strategies that choose."""
    return [name for name in facts.strategies if facts.series[name].subjects("draw_share")]


def clustered(facts: Facts) -> list[str]:
    """Return those that choose by a score of every cluster."""
    series = {name: facts.series[name] for name in described(facts)}
    return [name for name, s in series.items() if s.subjects("cluster_draw") and s.subjects("selector")]


def selectors(facts: Facts, strategy: str) -> go.Figure:
    """Draw which score decided in each cluster at each event; clusters of different events have nothing in common."""
    series = facts.series[strategy]
    subjects = series.subjects("selector")
    events = sorted({e for s in subjects for e in series.rows("selector", s)})
    values = np.full((len(subjects), len(events)), np.nan)
    for i, subject in enumerate(subjects):
        for event, chosen in series.rows("selector", subject).items():
            values[i, events.index(event)] = np.nan if chosen.value is None else chosen.value
    steps = [(i / len(SELECTORS), (i + 1) / len(SELECTORS), colour) for i, colour in enumerate(_COLOURS)]
    places = list(range(len(SELECTORS)))
    names = [["" if np.isnan(v) else SELECTORS[int(v)] for v in line] for line in values]
    figure = go.Figure()
    figure.add_heatmap(
        x=[str(e) for e in events],
        y=subjects,
        z=values,
        zmin=-0.5,
        zmax=len(SELECTORS) - 0.5,
        colorscale=[entry for low, high, colour in steps for entry in ([low, colour], [high, colour])],
        colorbar={"tickvals": places, "ticktext": list(SELECTORS), "thickness": 12, "outlinewidth": 0},
        xgap=1,
        ygap=1,
        hoverongaps=False,
        text=names,
        hovertemplate="event %{x}, %{y}: %{text}<extra></extra>",
    )
    look.style(figure, 160 + 24 * len(subjects))
    figure.update_xaxes(title="event", type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def shares(facts: Facts, strategy: str) -> go.Figure:
    """Draw how often each skill was drawn, over how often it is in the pool: 1 is what a uniform draw would give."""
    series = facts.series[strategy]
    figure = go.Figure()
    for number, subject in enumerate(series.subjects("draw_share")):
        drawn, pool = series.rows("draw_share", subject), series.rows("pool_share", subject)
        figure.add_scatter(
            x=list(drawn),
            y=[None if r.value is None else r.value / (pool[e].value or np.nan) for e, r in drawn.items()],
            name=subject,
            **look.line(number, len(drawn) <= 60),
        )
    look.mark_deletions(figure, [r.event for r in facts.requested])
    look.style(figure, 420)
    figure.update_yaxes(title="share of the draw / share of the pool", rangemode="tozero")
    look.event_axis(figure, facts.num_events)
    return figure
