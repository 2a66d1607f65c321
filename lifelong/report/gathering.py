"""Read the runs of a study for its report, one after another."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lifelong.config.run import RunConfig
from lifelong.execution.manifest import check_begun
from lifelong.execution.runner import Run
from lifelong.report.ages import by_age
from lifelong.report.facts import Facts, gather, matrix_of
from lifelong.report.lives import Life, Lives, Point
from lifelong.report.summary import Line, summarize
from lifelong.results.columns import read_some
from lifelong.results.integrity import check_finished, read_json, table_files
from lifelong.results.series import Series
from lifelong.results.table import Table
from lifelong.study.checks import metrics_needed
from lifelong.study.config import Cell
from lifelong.study.jobs import Job
from lifelong.study.study import Study
from lifelong.study.verdicts import Results
from streams.config import parse

_PLAIN = [
    "abs_relapse",
    "average_gap",
    "collateral_mean",
    "exact",
    "exposure",
    "forgetting_from_first",
    "forget_loss",
    "immediate_abs_gap_membership_auc",
    "immediate_js",
    "informedness",
    "js",
    "js_to_retrained",
    "latency",
    "membership_auc",
    "relapse",
    "soft_informedness",
    "state_bytes",
    "steps",
    "tow",
    "weights_erased",
]
_OF_MEASURE = ["{}", "average_{}", "deleted_{}", "forget_{}", "forget_test_{}", "gap_forget_{}", "retain_{}"]
_IMMEDIATE = ["immediate_abs_gap_forget_{}"]


def gather_lives(study: Study) -> Lives:
    """Read the runs of a study, one after another, and keep what its report needs."""
    with _without_collector():
        return _gather(study)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the search for cycles: millions of short-lived rows set it off, they have none, and it takes a quarter."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _gather(study: Study) -> Lives:
    strategies = tuple(dict.fromkeys(name for cell in study.cells for name in cell.config.strategies))
    points: dict[str, Point] = {}
    manifests: list[dict[str, Any]] = []
    unfinished: list[tuple[Job, str]] = []
    references: dict[str, tuple[int, int, float]] = {}
    metrics: set[str] = set()
    measure_of: dict[tuple[str, ...], str] = {}
    asked_for = metrics_needed(study.config)
    tables: dict[str, tuple[Cell, dict[str, Table]]] = {}
    for job in study.jobs:
        cell = study.cells[job.cell]
        if not (job.folder / "manifest.json").exists():
            unfinished.append((job, "has not begun"))
            continue
        check_begun(job.folder)
        key = json.dumps(cell.values, sort_keys=True, default=str)
        # the first run of every kind is read as a whole, which tells the score's name and all metrics
        kind = (key, *job.config["strategies"])
        facts = gather(_read(job, measure_of.get(kind), asked_for))
        if kind not in measure_of:
            measure_of[kind] = facts.measure
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
    results = Results(study.config, tuple(tables.values()), study.rule, study.seeds)
    return Lives(
        study=study,
        points=tuple(points.values()),
        validity=tuple(results.validity()),
        verdicts=tuple(results.verdicts()),
        differences=tuple(results.differences()),
        components=tuple(results.components()),
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
        done = file.with_name("done.json")
        if done.exists():
            summaries[name] = read_json(done, "Delete the run folder and run the study again.")
            check_finished(file.parent, summaries[name], {*table_files(file.parent), "timings.jsonl"})
        tables[name] = Table(read_some(file, needed) if file.exists() else [])
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
        key: _dense(series, metric, subject, facts.num_events, model)
        for key, metric, subject, model in (
            ("average", f"average_{measure}", "stream", "run"),
            ("relapse", "relapse", "requests", "retrained"),
            ("steps", "steps", "event", "run"),
            ("state", "state_bytes", "event", "run"),
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
        by_age={
            key: _aged(by_age(series, metric, model, facts.requested, facts.num_events), facts.num_events)
            for key, metric, model in (
                ("forget", f"forget_{measure}", "run"),
                ("retrained", f"forget_{measure}", "retrained"),
                ("relapse", "relapse", "retrained"),
            )
        },
        ends={k: np.nan if v is None else v for k, v in ends.items()},
        line=line,
    )


def _by_request(facts: Facts, name: str, by_event: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    series, forget, last = facts.series[name], f"forget_{facts.measure}", facts.num_events - 1
    served = [r.event if r.event < series.lived else None for r in facts.requested]

    def at(metric: str, model: str = "run", event: int | None = None) -> np.ndarray:
        values = [
            None if served_at is None else series.value(metric, r.name, served_at if event is None else event, model)
            for r, served_at in zip(facts.requested, served, strict=True)
        ]
        return np.array([np.nan if v is None else v for v in values])

    return {
        "forget": at(forget),
        "retrained": at(forget, "retrained"),
        "withheld": at(forget, "withheld"),
        "gap": at(f"gap_{forget}", "retrained"),
        "gap_end": at(f"gap_{forget}", "retrained", last),
        "js": at("js", "retrained"),
        "average_gap": at("average_gap", "retrained"),
        "tow": at("tow", "retrained"),
        "js_end": at("js", "retrained", last),
        "relapse_end": at("relapse", "retrained", last),
        "latency": at("latency"),
        "exposure": at("exposure"),
        **{
            key: np.array([np.nan if when is None else by_event[key][when] for when in served])
            for key in ("steps", "seconds")
        },
    }


def _dense(series: Series, metric: str, subject: str, length: int, model: str = "run") -> np.ndarray:
    values = np.full(length, np.nan)
    for event, r in series.rows(metric, subject, model).items():
        if r.value is not None:
            values[event] = r.value
    return values


def _aged(means: dict[int, float], length: int) -> np.ndarray:
    values = np.full(length, np.nan)
    values[list(means)] = list(means.values())
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
