"""What the report of a study is drawn from: every life as a few arrays, so that a thousand of them fit in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lifelong.metrics.catalogue import Catalogue, with_own
from lifelong.report.facts import Facts, Requested
from lifelong.report.matrix import Matrix
from lifelong.report.summary import Line
from lifelong.study.jobs import Job
from lifelong.study.judging import Difference, Verdict
from lifelong.study.study import Study
from lifelong.study.verdicts import Components


@dataclass(frozen=True, slots=True, eq=False)
class Life:
    """One strategy under one seed.

    Attributes:
        lived: events so far.
        done: whether it has lived to the end and its references are computed.
        by_event: ``average``, ``relapse`` (mean over requests), ``steps``, ``seconds`` and ``state`` after every event.
        by_request: in the order of requests, right after service: ``forget`` (score on the forget set), ``retrained``
            and ``withheld`` (the same of these references), ``gap`` and ``js`` (to retrained), ``steps``, ``seconds``,
            ``latency``, ``exposure``; and ``gap_end``, ``js_end``, ``relapse_end`` after the last event.
        by_age: ``forget`` (score on the forget set), ``retrained`` (of that reference) and ``relapse``, by the events
            that have passed since a request was served: means over the requests that are so old.
        ends: ``retained`` (score on the training samples that are still held, after the last event), ``distance`` and
            ``js`` (to the retrained reference: absolute gap in forget score and divergence, mean over requests right
            after each was served).
        line: its line in the table of its run.
    """

    lived: int
    done: bool
    by_event: dict[str, np.ndarray]
    by_request: dict[str, np.ndarray]
    by_age: dict[str, np.ndarray]
    ends: dict[str, float]
    line: Line


@dataclass(frozen=True, slots=True)
class RequestSlot:
    """The requests at one place of the order, over seeds.

    Attributes:
        name: of the request.
        what: in words; what is drawn anew for every seed is named by its scope alone.
        events: that serve it under any seed.
    """

    name: str
    what: str
    events: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Point:
    """One point of the grid: the lives of all strategies under all seeds.

    Attributes:
        values: grid keys and their values.
        order: all strategies of the study.
        example: the stream of the first seed; its tables are left out.
        access: what each finished strategy was allowed to read.
        lives: by strategy and seed.
        streams: digest of the stream, by seed.
        requested: requests, by seed.
        num_events: the most under any seed.
        totals: by strategy, scores of units summed over seeds, and how many were summed: ``[2, units, events]`` each,
            first of what is held, then of what is deleted.
    """

    values: dict[str, Any]
    order: tuple[str, ...]
    example: Facts
    access: dict[str, str] = field(default_factory=dict)
    lives: dict[str, dict[int, Life]] = field(default_factory=dict)
    streams: dict[int, str] = field(default_factory=dict)
    requested: dict[int, tuple[Requested, ...]] = field(default_factory=dict)
    num_events: int = 0
    totals: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Grid values in words, empty if nothing varies."""
        return ", ".join(f"{k} = {json.dumps(v)}" for k, v in self.values.items())

    @property
    def measure(self) -> str:
        """Name of the score."""
        return self.example.measure

    @property
    def catalogue(self) -> Catalogue:
        """What the metrics mean."""
        return self.example.catalogue

    @property
    def requests(self) -> tuple[RequestSlot, ...]:
        """Requests, aligned over seeds by their order."""
        most = max((len(r) for r in self.requested.values()), default=0)
        return tuple(_slot([r[k] for r in self.requested.values() if k < len(r)]) for k in range(most))

    @property
    def scopes(self) -> list[str]:
        """What requests name alone, in the order of their first appearance."""
        found = dict.fromkeys(r.scopes for requested in self.requested.values() for r in requested)
        return [scopes[0] for scopes in found if len(scopes) == 1]

    @property
    def deletions(self) -> list[int]:
        """Events that serve a request under any seed."""
        return sorted({r.event for requested in self.requested.values() for r in requested})

    @property
    def begun(self) -> list[tuple[int, str]]:
        """Strategies that have begun, each with its place in the order of the study, which gives it its colour."""
        return [(number, name) for number, name in enumerate(self.order) if name in self.lives]

    def num_seeds(self) -> int:
        """Return the most seeds that any strategy has."""
        return max((len(seeds) for seeds in self.lives.values()), default=0)

    def by_event(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds, events]``."""
        return _stacked([life.by_event[name] for life in self.lives[strategy].values()], self.num_events)

    def by_request(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds, requests]``."""
        return _stacked([life.by_request[name] for life in self.lives[strategy].values()], len(self.requests))

    def by_age(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds, ages]``."""
        return _stacked([life.by_age[name] for life in self.lives[strategy].values()], self.num_events)

    def by_scope(self, strategy: str, name: str, scope: str, size: bool = False) -> np.ndarray:
        """Return ``[seeds]``: means over the requests that name one scope alone; with `size` of absolute values."""
        means = []
        for seed, life in self.lives[strategy].items():
            alike = np.array([r.scopes == (scope,) for r in self.requested[seed]])
            values = life.by_request[name][alike]
            known = values[np.isfinite(values)]
            means.append(np.mean(np.abs(known) if size else known) if len(known) else np.nan)
        return np.array(means)

    def ends(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds]``."""
        return np.array([life.ends[name] for life in self.lives[strategy].values()])

    def matrix(self, strategy: str) -> Matrix:
        """Return the mean over seeds of the scores of units."""
        total, count = self.totals[strategy]
        held, deleted = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        learned = [(e.event, unit) for e in self.example.learned for unit in e.units]
        bounded = self.catalogue.is_share(self.measure)
        return Matrix(self.example.units, held, deleted, self.num_events, learned, self.deletions, bounded)


@dataclass(frozen=True, slots=True, eq=False)
class Lives:
    """Everything the report of a study needs.

    Attributes:
        study: the study.
        points: the grid, as far as runs have begun.
        validity, verdicts, differences, components: what gates, criteria, comparisons and variances came to, on the
            lives that are finished.
        strategies: names, in the order of the study.
        unfinished: jobs that are not done, and how far each is.
        manifests: of all runs that have begun.
        references: by strategy: computed, found in the cache, seconds.
        metrics: names of all in the tables.
    """

    study: Study
    points: tuple[Point, ...]
    validity: tuple[Verdict, ...]
    verdicts: tuple[Verdict, ...]
    differences: tuple[Difference, ...]
    components: tuple[Components, ...]
    strategies: tuple[str, ...]
    unfinished: tuple[tuple[Job, str], ...]
    manifests: tuple[dict[str, Any], ...]
    references: dict[str, tuple[int, int, float]]
    metrics: frozenset[str]

    @property
    def catalogue(self) -> Catalogue:
        """What the metrics mean, those of the user's own modules too."""
        declared: dict[str, dict[str, Any]] = {"measures": {}, "metrics": {}}
        for manifest in self.manifests:
            for kind, metrics in manifest.get("metrics", {}).items():
                declared[kind] |= metrics
        return with_own(declared)


def _slot(requests: Sequence[Requested]) -> RequestSlot:
    names = dict.fromkeys(r.name for r in requests)
    whats = dict.fromkeys(r.what for r in requests)
    scopes = dict.fromkeys(s for r in requests for s in r.scopes)
    what = next(iter(whats)) if len(whats) == 1 else f"{', '.join(scopes)} (drawn for every seed)"
    return RequestSlot(next(iter(names)), what, tuple(sorted({r.event for r in requests})))


def _stacked(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    values = np.full((len(arrays), length), np.nan)
    for i, array in enumerate(arrays):
        values[i, : len(array)] = array
    return values
