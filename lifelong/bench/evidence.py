"""What a submission keeps of every life: at the moments that have references, how far the model is from retraining.

A moment is the event of a request beside which references stand, or the last event. Of all requests that are measured
there the furthest counts, scope by scope, so that a life of a thousand events becomes a page of numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import Field

from lifelong.config.run import ReferencesConfig
from lifelong.metrics.catalogue import measure_of
from lifelong.references.points import requests_with_references
from lifelong.results.table import Table
from strategies.objectives._base import NamedObjective
from streams.config import Config
from streams.events import DeletionRequest
from streams.registry import class_of, load
from streams.stream import Stream

FEWEST_SAMPLES = 5
"""Requests with fewer deleted samples left (or images drawn for them) say too little, and are not looked at."""
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Scores:
    """Which rows say how a model does.

    Attributes:
        retained: of the stream, on what is retained, higher is better; the one counts that is furthest behind.
        forgotten: of a request, on what it deleted.
        average: of the stream: its course is accumulation.
        forgetting, relapse: what was lost by accident, and what came back; None where no row says so in shares.
    """

    retained: tuple[str, ...]
    forgotten: str
    average: str
    forgetting: str | None = "forgetting_from_first"
    relapse: str | None = "abs_relapse"

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all these rows."""
        yield from (*self.retained, self.forgotten, self.average)
        yield from filter(None, (self.forgetting, self.relapse))


PICTURES = Scores(
    retained=("picture_accuracy", "picture_style_accuracy"),
    forgotten="ua",
    average="picture_accuracy",
    forgetting=None,
    relapse=None,
)
"""Of image generators, whose own score is a squared error, of which five points mean nothing: what the judges of the
audit `images` see in images that are drawn."""


def scores_of(objective: str) -> Scores:
    """Return which rows say how a model with an objective of that name does."""
    if class_of(load("objectives", objective, "objective"), NamedObjective).predicts == "images":
        return PICTURES
    measure = measure_of(objective)
    return Scores((f"retain_{measure}",), f"forget_{measure}", f"average_{measure}")


class OfScope(Config):
    """How far models are, on what requests of one scope deleted. Distances are absolute; larger ones are worse."""

    requests: int
    """Requests that are looked at here."""
    gap: float
    """Largest distance on a forget set between the scores of the run and of the retrained model."""
    floor: float
    """The same between two retrained models."""
    attack: float | None
    """Largest distance from 0.5 of the membership attack's AUC on the run. null: there are no unseen samples."""
    chance: float | None
    """The same on both retrained models, which never saw the samples."""
    control: float | None
    """Mean distance from 0.5 on a model from which nothing was ever deleted, minus that on the retrained models."""


class Moment(Config):
    """One moment with references."""

    request: int
    """Requests served by then."""
    event: int
    """Its index."""
    retained: float | None
    """Score on retained training data: the run's minus the retrained model's; of several scores the one that is
    furthest behind. null: nothing is retained."""
    retained_floor: float | None
    """Distance of that score between two retrained models; of several the largest."""
    scopes: dict[str, OfScope]
    """By what requests name."""


class Numbers(Config):
    """What stands beside the headline. null is undefined."""

    accumulation: float | None
    """Mean over events of the average score (each value holds until the next one), over joint training's at the end."""
    forgetting: float | None
    """Mean over units of the score when first learned minus the score at the end: what was forgotten by accident."""
    relapse: float | None
    """Mean over requests of the absolute relapse at the end: what came back, or faded, beyond retraining."""
    cost: float | None
    """Mean over requests of the samples passed to serve one, over those of retraining."""
    state_bytes: float | None
    """Largest size of all that the strategy kept."""


class Life(Config):
    """What one seed came to."""

    seed: int
    """Of the run."""
    diverged: str | None = None
    """What training said when it diverged; there are no moments then."""
    served: int = 0
    """Requests of the stream."""
    exact: float = 0.0
    """Share of requests that the strategy says it served exactly, or with the grade certified."""
    moments: tuple[Moment, ...] = ()
    """In their order; the last is the last event."""
    numbers: Numbers = Field(
        default_factory=lambda: Numbers(accumulation=None, forgetting=None, relapse=None, cost=None, state_bytes=None)
    )
    """What stands beside the headline."""
    results: str = ""
    """Digest of all rows of the run."""


def life_of(
    seed: int, table: Table, stream: Stream, scores: Scores, references: ReferencesConfig, results: str
) -> Life:
    """Return what a finished run came to.

    Args:
        seed: of the run.
        table: its rows.
        stream: that was lived through.
        scores: names of the rows that say how a model does.
        references: configuration of the references, which decides the moments.
        results: digest of all rows.
    """
    events = [i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest)]
    last = len(stream.events) - 1
    chosen = [events[n] for n in requests_with_references(stream, references)]
    moments = tuple(_moment(table, stream, event, events, scores) for event in dict.fromkeys([*chosen, last]))
    claims = [r.value for m in ("exact", "certified") for r in table.select(m) if r.subject != "requests"]
    return Life(
        seed=seed,
        served=len(events),
        exact=_rounded(sum(1 for v in claims if v) / len(events)) or 0.0,
        moments=moments,
        numbers=_numbers(table, scores),
        results=results,
    )


def _moment(table: Table, stream: Stream, event: int, events: list[int], scores: Scores) -> Moment:
    scope_of = {stream.events[i].name: _scope(stream.events[i]) for i in events}
    by_model = {m: _values(table, scores.forgotten, m, event) for m in ("run", "retrained", "retrained-2")}
    attacks = {m: _values(table, "membership_auc", m, event) for m in ("run", "retrained", "retrained-2", "original")}
    scopes = {}
    for scope in sorted(set(scope_of.values())):
        names = [n for n in by_model["retrained"] if scope_of.get(n) == scope and n in by_model["retrained-2"]]
        if names:
            scopes[scope] = _of_scope(names, by_model, attacks)
    served = sum(i <= event for i in events)
    behind = [_difference(table, metric, "run", event) for metric in scores.retained]
    apart = [_difference(table, metric, "retrained-2", event) for metric in scores.retained]
    return Moment(
        request=served,
        event=event,
        retained=min((d for d in behind if d is not None), default=None),
        retained_floor=max((abs(d) for d in apart if d is not None), default=None),
        scopes=scopes,
    )


def _of_scope(names: list[str], scores: dict[str, dict[str, float]], attacks: dict[str, dict[str, float]]) -> OfScope:
    run, one, two = (scores[m] for m in ("run", "retrained", "retrained-2"))
    attacked = [n for n in names if all(n in of for of in attacks.values())]
    strengths = {m: [abs(of[n] - 0.5) for n in attacked] for m, of in attacks.items()}
    retrained = [*strengths["retrained"], *strengths["retrained-2"]]
    return OfScope(
        requests=len(names),
        gap=_rounded(max(abs(run[n] - one[n]) for n in names)) or 0.0,
        floor=_rounded(max(abs(two[n] - one[n]) for n in names)) or 0.0,
        attack=_rounded(max(strengths["run"], default=None)),
        chance=_rounded(max(retrained, default=None)),
        control=_rounded(_mean(strengths["original"]) - _mean(retrained)) if attacked else None,
    )


def _difference(table: Table, metric: str, model: str, event: int) -> float | None:
    """Return what a model has of a number of the stream beyond the retrained model, or None."""
    value, retrained = (
        next((r.value for r in table.select(metric, "stream", m) if r.event == event), None)
        for m in (model, "retrained")
    )
    return None if value is None or retrained is None else _rounded(value - retrained)


def _values(table: Table, metric: str, model: str, event: int) -> dict[str, float]:
    rows = table.select(metric, model=model)
    return {r.subject: r.value for r in rows if r.event == event and r.value is not None and r.n >= FEWEST_SAMPLES}


def _scope(event: object) -> str:
    """Return what a request names; of several that are served together, all of it."""
    assert isinstance(event, DeletionRequest)
    return "+".join(sorted({r.scope for r in event.requests}))


def _numbers(table: Table, scores: Scores) -> Numbers:
    average = {r.event: r.value for r in table.select(scores.average, "stream") if r.value is not None}
    joint = table.last(scores.average, "stream", "joint")
    share = None
    if average and joint is not None and joint.value:
        share = area(average) / joint.value
    sizes = [r.value for r in table.select("state_bytes", "event") if r.value is not None]
    return Numbers(
        accumulation=_rounded(share),
        forgetting=_last(table, scores.forgetting, "stream", "run"),
        relapse=_last(table, scores.relapse, "requests", "retrained"),
        cost=_last(table, "immediate_cost_ratio", "requests", "retrained"),
        state_bytes=max(sizes, default=None),
    )


def area(values: dict[int, float]) -> float:
    """Return the mean over events of a value that holds from its event until the next one that is given.

    >>> area({0: 0.0, 1: 0.5, 3: 1.0})
    0.5
    """
    events = sorted(event for event in values if event >= 0)
    spans = [*(after - event for event, after in itertools.pairwise(events)), 1]
    return sum(values[event] * span for event, span in zip(events, spans, strict=True)) / sum(spans)


def _last(table: Table, metric: str | None, subject: str, model: str) -> float | None:
    found = None if metric is None else table.last(metric, subject, model)
    return None if found is None else _rounded(found.value)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _rounded(value: float | None) -> float | None:
    """Return a number short enough for a file that holds thousands of them, and long enough to be computed with."""
    return None if value is None else round(value, _DIGITS)
