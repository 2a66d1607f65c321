"""What is drawn of a study, with captions; the page and the exported pictures hold the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plotly.graph_objects import Figure

from lifelong.report import figures, study_figures
from lifelong.report.lives import Lives, Point
from lifelong.report.look import MAX_LINES, marks_of_references
from lifelong.report.matrix import marks_in_words
from lifelong.report.spread import band_in_words
from lifelong.report.tables import meaning
from lifelong.report.tradeoff import by_access, trade_off

MAX_POINTS = 12
"""Points of the grid that are drawn; the table of results has all."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A figure.

    Attributes:
        name: unique within its point of the grid.
        figure: the figure.
        caption: what it shows.
        title: a headline, where there are several of a kind.
    """

    name: str
    figure: Figure
    caption: str
    title: str = ""


def study_drawings(lives: Lives) -> Iterator[tuple[str, Figure]]:
    """Yield every figure with a unique name."""
    points = lives.points[:MAX_POINTS]
    for number, point in enumerate(points):
        for part in (known, left_behind, came_back, traded, costs, matrices, happened):
            for drawn in part(point, lives):
                yield drawn.name if len(points) == 1 else f"{drawn.name}-{number}", drawn.figure


def known(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield the accumulation curve."""
    average = meaning(f"average_{point.measure}", point.catalogue)
    caption = (
        f"{average} Line and band: {band_in_words(point.num_seeds())}.{_deletions(point)}"
        f"{' After a request, what it deletes no longer counts.' if point.requests else ''}"
    )
    yield Drawn("average", study_figures.average(point), caption)


def left_behind(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield what is left of the deleted data right after each request."""
    if point.requests:
        figure = study_figures.requests(point)
        caption = (
            f"{meaning(f'forget_{point.measure}', point.catalogue)} Right after each request, in their order: "
            f"{band_in_words(point.num_seeds())}.{marks_of_references(figure)}"
        )
        yield Drawn("requests", figure, caption)


def came_back(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield relapse over events, and what is known of deleted data by its age."""
    if point.requests:
        caption = (
            f"{meaning('relapse')} Mean over the requests served so far, with its sign; "
            f"{band_in_words(point.num_seeds())}.{_deletions(point)}"
        )
        yield Drawn("relapse", study_figures.relapse(point), caption)
        caption = (
            f"Deleted data by its age: means over the requests that are so old, with fewer requests the farther to the "
            f"right; {band_in_words(point.num_seeds())}. Left: lines are the strategies, open diamonds the retrained "
            f"reference of each. Right: the change since the request less that of the retrained reference: above 0 it "
            f"came back, below 0 it faded more than it does without the data."
        )
        yield Drawn("age", study_figures.by_age(point), caption)


def traded(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield the trade-off."""
    if by_access(point):
        caption = (
            f"Up: score on the training samples that are still held, after the last event. To the right: farther from "
            f"the retrained reference on deleted data, mean over requests right after each was served. Up and left is "
            f"better. One row for each access: strategies that read different data are not ranked together. Filled: on "
            f"the Pareto front of its row, dashed. Bars: {band_in_words(point.num_seeds())}."
        )
        yield Drawn("tradeoff", trade_off(point), caption)


def costs(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield cost per request and per life."""
    if point.requests:
        caption = (
            f"Per request: {band_in_words(point.num_seeds())}. Latency: learn events from arrival to service. "
            f"Exposure: learn events during which the data was still in the model after the request arrived; undefined "
            f"where service does not claim to be exact."
        )
        yield Drawn("request-costs", study_figures.request_costs(point), caption)
    caption = (
        f"Over the life: optimizer steps and seconds (without evaluation and references) so far, and bytes that the "
        f"strategy keeps; {band_in_words(point.num_seeds())}.{_deletions(point)}"
    )
    yield Drawn("costs", study_figures.life_costs(point), caption)


def matrices(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield a heat map for every strategy."""
    count = min(len(lives.points), MAX_POINTS) * len(point.begun)
    for _, name in point.begun:
        figure = study_figures.mean_matrix(point, name, count)
        caption = (
            f"{name}: {point.measure.replace('_', ' ')} on each unit's test data after every event that was "
            f"measured, mean of {len(point.lives[name])} seeds. From yellow to blue: what should be known. Orange: "
            f"deleted classes and tasks, where high means still known. Grey: not learned yet."
            f"{marks_in_words(figure, _whose(point))}"
        )
        yield Drawn(f"matrix-{name}", figure, caption, name)


def happened(point: Point, lives: Lives) -> Iterator[Drawn]:
    """Yield the timeline of one seed."""
    streams = len(set(point.streams.values()))
    seed = next(iter(point.streams))
    others = f" The stream of seed {seed}; others differ in what is drawn." if streams > 1 else ""
    caption = (
        f"Events in their order. Squares: units that an experience teaches. Stars: learned again after deletion. "
        f"Crosses: deletion requests, by scope, and the units whose test data they delete.{others}"
    )
    yield Drawn("timeline", figures.timeline(point.example), caption)


def _deletions(point: Point) -> str:
    """Return what dotted lines are, where they are drawn."""
    return f" Dotted lines are deletion requests{_whose(point)}." if 0 < len(point.deletions) <= MAX_LINES else ""


def _whose(point: Point) -> str:
    return " of any seed" if any(len(r.events) > 1 for r in point.requests) else ""
