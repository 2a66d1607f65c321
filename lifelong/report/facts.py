"""What the report is drawn from: the tables of a run by subject, and what its folder says about the stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.execution.manifest import read_manifest
from lifelong.execution.runner import Run
from lifelong.metrics.catalogue import Catalogue, with_own
from lifelong.report.matrix import Matrix
from lifelong.report.summary import measure_of
from lifelong.results.series import Series, indexed
from streams.errors import CheckpointError
from streams.names import in_words


@dataclass(frozen=True, slots=True)
class Learned:
    """A learn event.

    Attributes:
        event: its index.
        name: of the experience.
        units: names of the units it teaches.
        samples: how many it brings.
        incarnation: 0, or how often it was learned again after deletion.
    """

    event: int
    name: str
    units: tuple[str, ...]
    samples: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Requested:
    """A deletion request.

    Attributes:
        event: index of the event that serves it.
        name: of the request.
        scopes: what the keys name: sample, class, task, user.
        what: the same with the names of the keys, in words.
        samples: how many training samples it deletes.
        units: names of the units whose test data it deletes, wholly or in part.
    """

    event: int
    name: str
    scopes: tuple[str, ...]
    what: str
    samples: int
    units: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Everything a report needs.

    Attributes:
        run: the run.
        series: its tables, by strategy.
        measure: name of the score.
        num_events: events of the whole stream.
        units: names, in order.
        learned, requested: what happens.
        stream: the stream manifest, without events.
        manifest: digests, versions and machine.
        seconds: by strategy, seconds that events took (not counting evaluation), by event.
    """

    run: Run
    series: dict[str, Series]
    measure: str
    num_events: int
    units: tuple[str, ...]
    learned: tuple[Learned, ...]
    requested: tuple[Requested, ...]
    stream: dict[str, Any]
    manifest: dict[str, Any]
    seconds: dict[str, dict[int, float]]

    @property
    def catalogue(self) -> Catalogue:
        """What the metrics mean, those of the user's own modules too."""
        return with_own(self.manifest.get("metrics", {}))

    @property
    def strategies(self) -> tuple[str, ...]:
        """Names of those that have begun."""
        return tuple(name for name, s in self.series.items() if s.lived)


def gather(run: Run) -> Facts:
    """Read what the folder of `run` holds beside its tables.

    Raises:
        CheckpointError: its manifest or its stream is missing or corrupt.
    """
    file = run.folder / "stream.json"
    try:
        stream = json.loads(file.read_text(encoding="utf-8"))
        units, events = stream.pop("units"), stream.pop("events")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} is not a stream manifest: {error!r}. Run again with --fresh.") from error
    names = tuple(u["name"] for u in units)
    return Facts(
        run=run,
        series=indexed(run.tables),
        measure=measure_of(run),
        num_events=len(events),
        units=names,
        learned=tuple(_learned(e, names) for e in events if e["kind"] == "learn"),
        requested=tuple(_requested(e, units) for e in events if e["kind"] == "forget"),
        stream=stream,
        manifest=read_manifest(run.folder),
        seconds={name: _seconds(run.folder / "strategies" / name / "timings.jsonl") for name in run.tables},
    )


def matrix_of(facts: Facts, strategy: str) -> Matrix:
    """Return a strategy's scores, by unit and event."""
    series, measure = facts.series[strategy], facts.measure
    held, deleted = (np.full((len(facts.units), series.lived), np.nan, dtype=np.float32) for _ in ("held", "deleted"))
    for metric, values in ((measure, held), (f"deleted_{measure}", deleted)):
        for u, unit in enumerate(facts.units):
            for event, r in series.rows(metric, unit).items():
                if r.value is not None:
                    values[u, event] = r.value
    return Matrix(
        units=facts.units,
        held=held,
        deleted=deleted,
        num_events=facts.num_events,
        learned=[(e.event, unit) for e in facts.learned for unit in e.units],
        deletions=[r.event for r in facts.requested],
        bounded=facts.catalogue.is_share(measure),
    )


def _learned(event: dict[str, Any], units: tuple[str, ...]) -> Learned:
    taught = tuple(units[i] for i in event["units"])
    return Learned(event["event"], event["name"], taught, event["samples"], event["incarnation"])


def _requested(event: dict[str, Any], units: list[dict[str, Any]]) -> Requested:
    requests = event["requests"]
    touched: list[str] = []
    for request in requests:
        keys = set(request["keys"])
        if request["scope"] == "task":
            touched += [units[i]["name"] for i in sorted(keys)]
        elif request["scope"] == "class":
            touched += [u["name"] for u in units if keys & set(u["classes"])]
    what = "; ".join(map(in_words, requests))
    scopes = tuple(dict.fromkeys(request["scope"] for request in requests))
    return Requested(event["event"], event["name"], scopes, what, event["samples"], tuple(dict.fromkeys(touched)))


def _seconds(file: Path) -> dict[int, float]:
    if not file.exists():
        return {}
    whole = file.read_text(encoding="utf-8").split("\n")[:-1]
    timings = [json.loads(line) for line in whole]
    return {int(t["event"]): float(t["act_s"]) for t in timings}
