"""The figures of a run's report: one function each, from the facts to a plotly figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lifelong.report import look
from lifelong.report.ages import by_age
from lifelong.report.facts import Facts, Requested, matrix_of
from lifelong.report.look import MAX_ROWS
from lifelong.report.matrix import heat_map, kept_events
from lifelong.results.series import Series

MAX_PANELS = 12
"""Requests up to which each gets a panel of its own."""
_MAX_CELLS = 500_000


def timeline(facts: Facts) -> go.Figure:
    """Draw what is learned and what must go: units and scopes against events."""
    scopes = [s for s in ("sample", "user", "class", "task") if any(s in r.scopes for r in facts.requested)]
    figure = go.Figure()
    for again, name, symbol, colour in (
        (False, "learn", "square", look.BLUE),
        (True, "learn again", "star", look.GREEN),
    ):
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
                text=[about(r) for r, _ in marked],
                name=name,
                mode="markers",
                marker={
                    "symbol": symbol,
                    "color": look.VERMILLION,
                    "size": 10,
                    "line": {"width": 2, "color": look.VERMILLION},
                },
                hovertemplate="event %{x}: %{text}<extra>%{fullData.name}</extra>",
            )
    rows = [f"request: {s}" for s in scopes] + list(reversed(facts.units))
    look.mark_deletions(figure, [r.event for r in facts.requested])
    look.style(figure, 130 + min(18 * len(rows), 900))
    every = {"dtick": 1} if len(rows) <= 40 else {}
    figure.update_yaxes(categoryorder="array", categoryarray=rows, range=[-0.7, len(rows) - 0.3], **every)
    look.event_axis(figure, facts.num_events)
    return figure


def average_score(facts: Facts) -> go.Figure:
    """Draw the score over everything that should be known, per strategy over events."""
    figure = go.Figure()
    for number, name in enumerate(facts.strategies):
        rows = facts.series[name].rows(f"average_{facts.measure}", "stream")
        figure.add_scatter(
            x=list(rows), y=[r.value for r in rows.values()], name=name, **look.line(number, len(rows) <= 60)
        )
    look.mark_deletions(figure, [r.event for r in facts.requested])
    if facts.requested:
        figure.add_scatter(
            x=[r.event for r in facts.requested],
            y=[0.03] * len(facts.requested),
            text=[about(r) for r in facts.requested],
            name="deletion request",
            mode="markers",
            marker={"symbol": "x", "color": look.VERMILLION, "size": 8},
            hovertemplate="%{text}<extra></extra>",
            yaxis="y2",
        )
    look.style(figure, 420)
    figure.update_layout(
        hovermode="x unified",
        yaxis={"title": look.words(f"average_{facts.measure}"), **look.score_range(facts.measure, facts.catalogue)},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )
    look.event_axis(figure, facts.num_events)
    return figure


def matrix(facts: Facts, strategy: str) -> go.Figure:
    """Draw the score of every unit after every event."""
    scores = matrix_of(facts, strategy)
    return heat_map(scores, scores.shown(_most_columns(facts)))


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
        subplot_titles=[about(r) for r in chosen],
    )
    metric = f"forget_{facts.measure}"
    for panel, request in enumerate(chosen):
        at = {"row": panel // columns + 1, "col": panel % columns + 1}
        for number, name in enumerate(facts.strategies):
            series = facts.series[name]
            _request_line(figure, series, request, metric, number, name, panel == 0, at)
            for model in look.REFERENCES:
                reference_rows = series.rows(metric, request.name, model)
                if reference_rows:
                    figure.add_scatter(
                        x=list(reference_rows),
                        y=[r.value for r in reference_rows.values()],
                        **look.reference(model, name, number, 11),
                        **at,
                    )
        figure.add_vline(x=request.event, line=look.DELETION, **at)
    look.name_references(figure)
    look.style(figure, 130 + 250 * count)
    figure.update_yaxes(**look.score_range(facts.measure, facts.catalogue))
    look.event_axis(figure, facts.num_events)
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="event", row=count)
    return figure


def came_back(facts: Facts) -> go.Figure:
    """Draw what is known of deleted data by its age, the events since its request: means over requests."""
    metric = f"forget_{facts.measure}"
    titles = (look.words(f"{metric}, by events since the request"), "change since then, less the retrained model's")
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09, subplot_titles=titles)
    for number, name in enumerate(facts.strategies):
        series = facts.series[name]
        panels_of = (
            (by_age(series, metric, "run", facts.requested, facts.num_events), True),
            (by_age(series, "relapse", "retrained", facts.requested, facts.num_events), False),
        )
        for place, (means, in_legend) in enumerate(panels_of, 1):
            figure.add_scatter(
                x=list(means),
                y=list(means.values()),
                name=name,
                legendgroup=name,
                showlegend=in_legend,
                row=1,
                col=place,
                **look.line(number, with_markers=True),
            )
        retrained = by_age(series, metric, "retrained", facts.requested, facts.num_events)
        figure.add_scatter(
            x=list(retrained),
            y=list(retrained.values()),
            **look.reference("retrained", name, number, 9),
            row=1,
            col=1,
        )
    look.style(figure, 420)
    figure.update_yaxes(**look.score_range(facts.measure, facts.catalogue), col=1)
    figure.update_xaxes(title="events since the request", rangemode="tozero")
    return figure


def paid(facts: Facts) -> go.Figure:
    """Draw what is known, and how far deleted data is from retraining, against all that a life cost."""
    titles = (f"average {look.words(facts.measure)}", "forget gap")
    figure = make_subplots(
        rows=2, cols=2, shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.05, vertical_spacing=0.08
    )
    gap = f"immediate_abs_gap_forget_{facts.measure}"
    for number, name in enumerate(facts.strategies):
        series = facts.series[name]
        steps = sum(r.value or 0.0 for r in series.rows("steps", "event").values())
        heights = (
            series.value(f"average_{facts.measure}", "stream", series.lived - 1),
            next((r.value for r in reversed(series.rows(gap, "requests", "retrained").values())), None),
        )
        for row, height in enumerate(heights, 1):
            for column, cost in enumerate((steps, sum(facts.seconds[name].values())), 1):
                figure.add_scatter(
                    x=[cost],
                    y=[height],
                    name=name,
                    legendgroup=name,
                    showlegend=row == column == 1,
                    mode="markers",
                    marker={"symbol": look.symbol(number), "size": 12, "color": look.colour(number)},
                    cliponaxis=False,
                    row=row,
                    col=column,
                )
    look.style(figure, 560)
    for row, title in enumerate(titles, 1):
        figure.update_yaxes(title=title, row=row, col=1)
    figure.update_xaxes(rangemode="tozero")
    for column, title in enumerate(("optimizer steps", "seconds, without evaluation and references"), 1):
        figure.update_xaxes(title=title, row=2, col=column)
    return figure


def costs(facts: Facts) -> go.Figure:
    """Draw what a life has cost so far: optimizer steps, seconds, and the size of what is kept."""
    names = ("optimizer steps so far", "seconds so far", "state in bytes")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=names)
    for number, name in enumerate(facts.strategies):
        series = facts.series[name]
        steps = {e: r.value for e, r in series.rows("steps", "event").items()}
        state = {e: r.value for e, r in series.rows("state_bytes", "event").items()}
        measured = [summed(steps), summed(dict(facts.seconds[name])), state]
        for place, values in enumerate(measured, 1):
            figure.add_scatter(
                x=list(values),
                y=list(values.values()),
                name=name,
                legendgroup=name,
                showlegend=place == 1,
                row=place,
                col=1,
                **look.line(number, len(values) <= 60),
            )
    look.mark_deletions(figure, [r.event for r in facts.requested], num_panels=3)
    look.style(figure, 760)
    figure.update_yaxes(rangemode="tozero")
    look.event_axis(figure, facts.num_events)
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="event", row=3)
    return figure


def summed(values: Mapping[int, float | None]) -> dict[int, float | None]:
    """Return running sums.

    >>> summed({0: 1.0, 2: 3.0})
    {0: 1.0, 2: 4.0}
    """
    return dict(zip(values, itertools.accumulate(v or 0.0 for v in values.values()), strict=True))


def left_out(facts: Facts, strategy: str) -> tuple[int, int]:
    """Return how many of the events after which something was measured a heat map shows, and how many there are."""
    scores = matrix_of(facts, strategy)
    return len(scores.shown(_most_columns(facts))), len(scores.measured)


def _most_columns(facts: Facts) -> int:
    """Return the events that a heat map shows at most: so few that the file stays small and the cells visible."""
    cells_per_event = 4 * len(facts.units) * len(facts.strategies)  # two traces over held and deleted rows
    return max(50, min(MAX_ROWS, _MAX_CELLS // cells_per_event))


def panels(facts: Facts) -> list[Requested]:
    """Return the requests that get a panel: all that have been served, or none if they are too many."""
    lived = max((facts.series[name].lived for name in facts.strategies), default=0)
    served = [r for r in facts.requested if r.event < lived]
    return served if len(served) <= MAX_PANELS else []


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
    shown = [events[i] for i in kept_events(len(events), [], MAX_ROWS // 2)]
    figure.add_scatter(
        x=shown,
        y=[rows[e].value for e in shown],
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        **look.line(number, len(shown) <= 60),
        **at,
    )


def about(request: Requested) -> str:
    """Return a request's name, what it asks for, and how much it deletes."""
    many = f" ({request.samples} sample{'' if request.samples == 1 else 's'})" if request.scopes != ("sample",) else ""
    return f"{request.name}: {request.what}{many}"
