"""What the report of a study is drawn from: every life as a few arrays, so that a thousand of them fit in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lifelong.config import RunConfig
from lifelong.manifest import read_json
from lifelong.report.facts import Facts, Requested, Series, gather, matrix_of
from lifelong.report.matrix import Matrix
from lifelong.runner import Run
from lifelong.study.checks import asked
from lifelong.study.config import Cell
from lifelong.study.jobs import Job
from lifelong.study.study import Study
from lifelong.study.verdicts import Difference, Results, Verdict
from lifelong.summary import Line, summarize
from lifelong.table import Table, read_rows
from streams.config import parse

_PLAIN = [
    "exact",
    "exposure",
    "forgetting_from_first",
    "immediate_gap_membership_auc",
    "immediate_js",
    "js",
    "latency",
    "relapse",
    "spill_mean",
    "state_bytes",
    "steps",
]
_OF_MEASURE = ["{}", "average_{}", "deleted_{}", "forget_{}", "gap_forget_{}", "retain_{}"]
_IMMEDIATE = ["immediate_gap_forget_{}", "immediate_abs_gap_forget_{}"]


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
        ends: ``retained`` (score on the training samples that are still held, after the last event), ``distance`` and
            ``js`` (to the retrained reference: absolute gap in forget score and divergence, mean over requests right
            after each was served).
        line: its line in the table of its run.
    """

    lived: int
    done: bool
    by_event: dict[str, np.ndarray]
    by_request: dict[str, np.ndarray]
    ends: dict[str, float]
    line: Line


@dataclass(frozen=True, slots=True)
class Ask:
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
    def asks(self) -> tuple[Ask, ...]:
        """Requests, aligned over seeds by their order."""
        most = max((len(r) for r in self.requested.values()), default=0)
        return tuple(_ask([r[k] for r in self.requested.values() if k < len(r)]) for k in range(most))

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
        return max((len(found) for found in self.lives.values()), default=0)

    def by_event(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds, events]``."""
        return _stacked([life.by_event[name] for life in self.lives[strategy].values()], self.num_events)

    def by_request(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds, requests]``."""
        return _stacked([life.by_request[name] for life in self.lives[strategy].values()], len(self.asks))

    def ends(self, strategy: str, name: str) -> np.ndarray:
        """Return ``[seeds]``."""
        return np.array([life.ends[name] for life in self.lives[strategy].values()])

    def matrix(self, strategy: str) -> Matrix:
        """Return the mean over seeds of the scores of units."""
        total, count = self.totals[strategy]
        held, deleted = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        learned = [(e.event, unit) for e in self.example.learned for unit in e.units]
        bounded = self.measure == "accuracy"
        return Matrix(self.example.units, held, deleted, self.num_events, learned, self.deletions, bounded)


@dataclass(frozen=True, slots=True, eq=False)
class Lives:
    """Everything the report of a study needs.

    Attributes:
        study: the study.
        points: the grid, as far as runs have begun.
        verdicts, differences: what criteria and comparisons came to, on the lives that are finished.
        strategies: names, in the order of the study.
        unfinished: jobs that are not done, and how far each is.
        manifests: of all runs that have begun.
        references: by strategy: computed, found in the cache, seconds.
        metrics: names of all in the tables.
    """

    study: Study
    points: tuple[Point, ...]
    verdicts: tuple[Verdict, ...]
    differences: tuple[Difference, ...]
    strategies: tuple[str, ...]
    unfinished: tuple[tuple[Job, str], ...]
    manifests: tuple[dict[str, Any], ...]
    references: dict[str, tuple[int, int, float]]
    metrics: frozenset[str]


def gather_lives(study: Study) -> Lives:
    """Read the runs of a study, one after another, and keep what its report needs."""
    strategies = tuple(dict.fromkeys(name for cell in study.cells for name in cell.config.strategies))
    points: dict[str, Point] = {}
    manifests: list[dict[str, Any]] = []
    unfinished: list[tuple[Job, str]] = []
    references: dict[str, tuple[int, int, float]] = {}
    metrics: set[str] = set()
    known: dict[tuple[str, ...], str] = {}
    asked_for = {quantity.metric for _, quantity, _ in asked(study.config)}
    tables: dict[str, tuple[Cell, dict[str, Table]]] = {}
    for job in study.jobs:
        cell = study.cells[job.cell]
        if not (job.folder / "manifest.json").exists():
            unfinished.append((job, "has not begun"))
            continue
        key = json.dumps(cell.values, sort_keys=True, default=str)
        # the first run of every kind is read as a whole, which tells the score's name and all metrics
        kind = (key, *job.config["strategies"])
        facts = gather(_read(job, known.get(kind), asked_for))
        if kind not in known:
            known[kind] = facts.measure
            metrics |= {r.metric for t in facts.run.tables.values() for r in t.rows}
        finished = tables.setdefault(job.name, (cell, {}))[1]
        for name in facts.run.summaries:
            finished[name] = Table(r for r in facts.run.tables[name].rows if r.metric in asked_for)
        manifests.append(facts.manifest)
        if not facts.run.done:
            unfinished.append((job, _progress(facts)))
        if key not in points:
            points[key] = Point(cell.values, strategies, replace(facts, series={}, seconds={}))
        _add(points[key], cell.seed, facts)
        for name, summary in facts.run.summaries.items():
            cost, before = summary["references"], references.get(name, (0, 0, 0.0))
            references[name] = (before[0] + cost["computed"], before[1] + cost["cached"], before[2] + cost["seconds"])
    results = Results(study.config, tuple(tables.values()))
    return Lives(
        study=study,
        points=tuple(points.values()),
        verdicts=tuple(results.verdicts()),
        differences=tuple(results.differences()),
        strategies=strategies,
        unfinished=tuple(unfinished),
        manifests=tuple(manifests),
        references={name: references[name] for name in strategies if name in references},
        metrics=frozenset(metrics),
    )


def _read(job: Job, measure: str | None, asked_for: set[str]) -> Run:
    """Read a run; of one whose score is known, only the rows that the report needs and those that are asked for."""
    needed = None
    if measure is not None:
        needed = sorted({*_PLAIN, *(n.format(measure) for n in (*_OF_MEASURE, *_IMMEDIATE)), *asked_for})
    tables, summaries = {}, {}
    for name in job.config["strategies"]:
        file = job.folder / "strategies" / name / "results.jsonl"
        tables[name] = Table(read_rows(file, needed) if file.exists() else [])
        done = file.with_name("done.json")
        if done.exists():
            summaries[name] = read_json(done, "Delete it and run the study again to write it again.")
    return Run(job.folder, parse(RunConfig, job.config), tables, summaries)


def _progress(facts: Facts) -> str:
    return ", ".join(
        f"{name}: {'done' if name in facts.run.summaries else f'{s.lived} of {facts.num_events} events'}"
        for name, s in facts.series.items()
    )


def _add(point: Point, seed: int, facts: Facts) -> None:
    """Add the lives of one run to a point."""
    point.num_events = max(point.num_events, facts.num_events)
    point.streams[seed] = str(facts.manifest["digests"]["stream"])
    point.requested[seed] = facts.requested
    of_units = {facts.measure, f"deleted_{facts.measure}"}
    tables = {name: Table(r for r in t.rows if r.metric not in of_units) for name, t in facts.run.tables.items()}
    lines = {line.strategy: line for g in summarize(replace(facts.run, tables=tables)) for line in g.lines}
    for name in facts.strategies:
        if name in facts.run.summaries:
            point.access.setdefault(name, str(facts.run.summaries[name]["access"]))
        point.lives.setdefault(name, {})[seed] = _life(facts, name, lines[name])
        _add_matrix(point, name, facts)


def _life(facts: Facts, name: str, line: Line) -> Life:
    series, measure, last = facts.series[name], facts.measure, facts.num_events - 1
    seconds = facts.seconds[name]
    by_event = {
        key: _dense(series, metric, subject, facts.num_events)
        for key, metric, subject in (
            ("average", f"average_{measure}", "stream"),
            ("relapse", "relapse", "requests"),
            ("steps", "steps", "event"),
            ("state", "state_bytes", "event"),
        )
    }
    by_event["seconds"] = np.array([seconds.get(e, np.nan) for e in range(facts.num_events)])
    done = name in facts.run.summaries
    ends = {
        "retained": series.value(f"retain_{measure}", "stream", last),
        "distance": series.value(f"immediate_abs_gap_forget_{measure}", "requests", last, "retrained"),
        "js": series.value("immediate_js", "requests", last, "retrained"),
    }
    return Life(
        lived=series.lived,
        done=done,
        by_event=by_event,
        by_request=_by_request(facts, name, by_event),
        ends={k: np.nan if v is None else v for k, v in ends.items()},
        line=line,
    )


def _by_request(facts: Facts, name: str, by_event: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    series, forget, last = facts.series[name], f"forget_{facts.measure}", facts.num_events - 1
    served = [r.event if r.event < series.lived else None for r in facts.requested]

    def at(metric: str, model: str = "run", event: int | None = None) -> np.ndarray:
        found = [
            None if when is None else series.value(metric, r.name, when if event is None else event, model)
            for r, when in zip(facts.requested, served, strict=True)
        ]
        return np.array([np.nan if v is None else v for v in found])

    return {
        "forget": at(forget),
        "retrained": at(forget, "retrained"),
        "withheld": at(forget, "withheld"),
        "gap": at(f"gap_{forget}", "retrained"),
        "gap_end": at(f"gap_{forget}", "retrained", last),
        "js": at("js", "retrained"),
        "js_end": at("js", "retrained", last),
        "relapse_end": at("relapse", "run", last),
        "latency": at("latency"),
        "exposure": at("exposure"),
        **{
            key: np.array([np.nan if when is None else by_event[key][when] for when in served])
            for key in ("steps", "seconds")
        },
    }


def _dense(series: Series, metric: str, subject: str, length: int) -> np.ndarray:
    values = np.full(length, np.nan)
    for event, r in series.rows(metric, subject).items():
        if r.value is not None:
            values[event] = r.value
    return values


def _add_matrix(point: Point, name: str, facts: Facts) -> None:
    """Add the scores of units, aligned by name."""
    matrix, units = matrix_of(facts, name), point.example.units
    known = [u for u, unit in enumerate(matrix.units) if unit in units]
    rows = [units.index(matrix.units[u]) for u in known]
    scores = np.stack([matrix.held, matrix.deleted])[:, known]
    before = point.totals.get(name, (np.zeros((2, len(units), 0)),) * 2)
    length = max(matrix.lived, before[0].shape[2])
    total, count = (np.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]))) for x in before)
    total[:, rows, : matrix.lived] += np.nan_to_num(scores)
    count[:, rows, : matrix.lived] += np.isfinite(scores)
    point.totals[name] = (total, count)


def _ask(requests: Sequence[Requested]) -> Ask:
    names = dict.fromkeys(r.name for r in requests)
    whats = dict.fromkeys(r.what for r in requests)
    scopes = dict.fromkeys(s for r in requests for s in r.scopes)
    what = next(iter(whats)) if len(whats) == 1 else f"{', '.join(scopes)} (drawn for every seed)"
    return Ask(next(iter(names)), what, tuple(sorted({r.event for r in requests})))


def _stacked(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    values = np.full((len(arrays), length), np.nan)
    for i, array in enumerate(arrays):
        values[i, : len(array)] = array
    return values
