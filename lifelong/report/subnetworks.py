"""How tasks of one network build on each other, and how full it is: from what strategies tell of themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from lifelong.report import look
from lifelong.report.facts import Facts


@dataclass(frozen=True, slots=True)
class Dependency:
    """One task computes with what another has trained.

    Attributes:
        source, target: names; the target depends on the source.
        share: of the target's mask that the source has trained.
        stale: whether the source was deleted, or learned again on less, since the target was learned: the target still
            derives from data that is gone.
    """

    source: str
    target: str
    share: float
    stale: bool


def described(facts: Facts) -> list[str]:
    """Return the strategies that have subnetworks."""
    return [name for name in facts.strategies if facts.series[name].subjects("mask_density")]


def dependencies(facts: Facts, strategy: str) -> tuple[list[str], list[Dependency]]:
    """Return the tasks that there are at the end, in order of their latest lessons, and what depends on what."""
    series = facts.series[strategy]
    lessons = {task: max(series.rows("mask_density", task)) for task in series.subjects("mask_density")}
    is_deleted = {
        task: max((r.event for r in facts.requested if task in r.units and r.event < series.lived), default=-1) > event
        for task, event in lessons.items()
    }
    again = {r.event for r in facts.requested}
    edges = []
    for subject in series.subjects("inherited"):
        source, target = subject.split(" > ")
        event, r = max(series.rows("inherited", subject).items())
        if event >= lessons[target] and r.value is not None and not is_deleted[target]:
            later = lessons[source] > lessons[target] and lessons[source] in again
            edges.append(Dependency(source, target, r.value, is_deleted[source] or later))
    sources = {d.source for d in edges}
    return sorted((t for t in lessons if not is_deleted[t] or t in sources), key=lambda task: lessons[task]), edges


def dependency_map(facts: Facts, strategy: str) -> go.Figure:
    """Draw who depends on whom: rows are sources, columns what was learned on top of them."""
    tasks, edges = dependencies(facts, strategy)
    place = {task: i for i, task in enumerate(tasks)}
    values = np.full((len(tasks), len(tasks)), np.nan)
    for d in edges:
        values[place[d.source], place[d.target]] = d.share
    figure = go.Figure()
    figure.add_heatmap(
        x=tasks,
        y=tasks,
        z=values,
        colorscale=look.HELD,
        colorbar={"title": "share", "thickness": 12, "outlinewidth": 0},
        hoverongaps=False,
        hovertemplate="%{x} computes with what %{y} has trained: %{z:.1%} of its mask<extra></extra>",
    )
    stale = [d for d in edges if d.stale]
    if stale:
        figure.add_scatter(
            x=[d.target for d in stale],
            y=[d.source for d in stale],
            name="derives from deleted data",
            mode="markers",
            marker={"symbol": "x-thin-open", "size": 9, "line": {"width": 2, "color": look.VERMILLION}},
            hoverinfo="skip",
            showlegend=True,
        )
    look.style(figure, 180 + min(20 * len(tasks), 900))
    axis = {"type": "category", "categoryorder": "array", "categoryarray": tasks, "showgrid": False}
    figure.update_xaxes(title="learned on top", range=[-0.5, len(tasks) - 0.5], **axis)
    figure.update_yaxes(title="source", range=[len(tasks) - 0.5, -0.5], **axis)
    return figure


def capacity(facts: Facts, strategy: str) -> go.Figure:
    """Draw how full each layer is after every event, and what share of its mask each task could train."""
    series = facts.series[strategy]
    figure = go.Figure()
    for number, layer in enumerate(series.subjects("capacity_used")):
        rows = series.rows("capacity_used", layer)
        figure.add_scatter(
            x=list(rows),
            y=[r.value for r in rows.values()],
            name=layer.removeprefix("layer "),
            **look.line(number, len(rows) <= 60),
        )
    free = [(e, r.value, t) for t in series.subjects("free_share") for e, r in series.rows("free_share", t).items()]
    figure.add_scatter(
        x=[e for e, _, _ in free],
        y=[value for _, value, _ in free],
        text=[task for _, _, task in free],
        name="free share of a task's mask",
        mode="markers",
        marker={"symbol": "star", "size": 9, "color": look.GREY},
        hovertemplate="event %{x}, %{text}: %{y:.3f}<extra></extra>",
    )
    look.mark_deletions(figure, [r.event for r in facts.requested])
    look.style(figure, 420)
    figure.update_yaxes(title="share", range=[-0.03, 1.03])
    look.event_axis(figure, facts.num_events)
    return figure
