"""Which references are wanted of a stream, and the events that each of them lives through."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lifelong.config.run import ReferenceKind, ReferencesConfig
from streams.events import DeletionRequest, Event, Experience
from streams.randomness import Key
from streams.skipping import without_request
from streams.stream import Stream
from streams.timeline import admitted, surviving, with_ids


@dataclass(frozen=True, slots=True)
class Point:
    """One reference at one moment.

    Attributes:
        kind: which reference.
        event: the event of the main run it stands beside.
        request: for no-op, the number of the request that is skipped.
    """

    kind: ReferenceKind
    event: int
    request: int | None = None


def chain(stream: Stream, point: Point, copies: bool = False) -> tuple[Event, ...]:
    """Return the events that the reference at `point` lives through.

    Args:
        stream: of the run.
        point: which reference, and where.
        copies: whether requests of the stream cover copies of what they name.
    """
    events = stream.events[: point.event + 1]
    match point.kind:
        case "retrained" | "retrained-2":
            return surviving(events)
        case "original":
            return tuple(e for e in events if isinstance(e, Experience) and not e.incarnation)
        case "withheld":
            return tuple(e for e in admitted(events) if isinstance(e, Experience))
        case "no-op":
            return without_request(stream, len(events), stream.requests[point.request or 0].name, copies)
        case "clean":
            return _clean(stream, surviving(events))
        case "fresh":
            return ()
        case "joint":
            return _at_once(surviving(events))


def _clean(stream: Stream, experiences: tuple[Experience, ...]) -> tuple[Experience, ...]:
    """Return the experiences without any manipulated sample, named or not."""
    bad = np.array([], dtype=np.int64) if stream.source.corruption is None else stream.source.corruption.samples
    kept = [with_ids(e, e.sample_ids[~np.isin(e.sample_ids, bad)]) for e in experiences]
    return tuple(e for e in kept if len(e.sample_ids))


def _at_once(experiences: tuple[Experience, ...]) -> tuple[Event, ...]:
    """Return passes over everything that was learned, of about as many samples in all."""
    if not experiences:
        return ()
    experiences = tuple(e for e in experiences if not e.consolidates)
    ids = np.unique(np.concatenate([e.sample_ids for e in experiences]))
    units = tuple(sorted({u for e in experiences for u in e.units}))
    passes = max(1, round(sum(len(e.sample_ids) for e in experiences) / len(ids)))
    return tuple(Experience(f"joint-{i}", units, ids) for i in range(passes))


def points_of(stream: Stream, kinds: tuple[ReferenceKind, ...], requests: Sequence[int] | None = None) -> list[Point]:
    """Return every reference that is wanted: at the event of each request, and after the last event.

    No-op is about a request, so a stream without any has none.

    Args:
        stream: of the run.
        kinds: of references.
        requests: numbers of those that get references; None: all.
    """
    positions = [i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest)]
    numbers = range(len(positions)) if requests is None else requests
    last = len(stream.events) - 1
    points = []
    for kind in kinds:
        if kind == "no-op":
            for number in numbers:
                points += [Point(kind, event, number) for event in dict.fromkeys([positions[number], last])]
        elif kind == "joint":
            points.append(Point(kind, last))
        else:
            points += [Point(kind, event) for event in dict.fromkeys([*(positions[n] for n in numbers), last])]
    return points


# Why: docs/decisions.md#a-budget-of-references-is-drawn-by-number
def requests_with_references(stream: Stream, config: ReferencesConfig) -> tuple[int, ...]:
    """Return the numbers, ascending, of the requests that get references.

    They are drawn by their numbers alone, so that a larger budget only adds some, and all runs draw the same.
    """
    numbers = np.array(config.numbers(len(stream.requests)), dtype=np.int64)
    if config.most is not None:
        numbers = np.sort(numbers[(Key(0) / "references").order(numbers)[: config.most]])
    return tuple(numbers.tolist())


def wanted_points(
    stream: Stream, config: ReferencesConfig, kinds: Collection[ReferenceKind] | None = None
) -> list[Point]:
    """Return every reference that a configuration asks for; with `kinds`, only those."""
    chosen = tuple(k for k in config.kinds if kinds is None or k in kinds)
    return points_of(stream, chosen, requests_with_references(stream, config))
