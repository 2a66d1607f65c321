"""Weights & Biases: one run per strategy, on its own `event` axis; offline where there is no key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, final

import numpy as np
from typing_extensions import override

from lifelong.files import code_version
from lifelong.metrics.catalogue import measure_of
from lifelong.results.record import shown_files
from lifelong.results.table import Row, read_rows
from lifelong.trackers._base import RunInfo, Tracker
from lifelong.trackers._charts import requests_chart, units_chart
from lifelong.trackers._server import Place, Server, sweep
from lifelong.trackers._wide import WHOLE, Wide
from streams.errors import TrainingError
from streams.events import DeletionRequest

_LONGEST_NAME, _LONGEST_TITLE = 120, 63
_STREAM_FILES = ("stream.json", "config.yaml", "manifest.json")


@final
class WandbTracker(Tracker):
    """Sends every number to W&B, one log call per event.

    A number of the whole (stream, requests on average, costs) is logged as ``subject/metric``, of a reference as
    ``model/subject/metric``; an undefined one as None. What belongs to single requests and units is in tables, sent at
    the end: keys of their own would be thousands. So is why a number is undefined.

    An event has its index as W&B step; references, which belong to events that have passed, follow after the last
    one. So going on after a crash repeats nothing that the server has, and an offline folder, which has nothing to
    go on from, is replaced by one that begins with the rows of the run folder.

    Under the agent of a sweep every strategy is still a run of its own, apart from the sweep; the run that the agent
    waits for is started by `lifelong.study.share.share_run`.
    """

    def __init__(self, place: Place | None = None, group: str | None = None, point: str | None = None) -> None:
        """Nothing of W&B is imported or started before a strategy begins.

        Args:
            place: project, entity, tags and notes.
            group: of runs; by default the run folder's name, so that its strategies are together.
            point: what tells the run from others of its scenario, as people read it: options that were changed, or
                the point of a grid. None is what it was when the run began.
        """
        self._group, self._point = group, point
        self._run: Any = None
        self._info: RunInfo | None = None
        self._wide = Wide(())
        self._events: dict[int, float] = {}
        self._steps = 0
        self._complete = False
        self._server = Server(place)

    @override
    def begin(self, info: RunInfo, first_event: int) -> None:
        self._info, self._steps, self._complete, self._events = info, len(info.stream.events), False, {}
        self._wide = Wide(u.name for u in info.stream.units)
        self._run = self._open(info)
        self._run.define_metric("event")
        self._run.define_metric("*", step_metric="event")
        if first_event:
            self._catch_up(info.folder, first_event)

    @override
    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        self._events[index] = seconds
        self._log(index, {"event": index, "event/seconds": seconds, **logged(rows)})
        self._wide.add(rows)

    @override
    def references(self, rows: Sequence[Row], seconds: float) -> None:
        self._wide.add(rows)
        for event, group in sorted(_by_event(rows).items()):
            self._add({"event": event, **logged(group)})
        assert self._info is not None
        for event, files in shown_files(self._info.folder).items():
            self._add({"event": event, **{f"images/{model}": _picture(file) for model, file in files.items()}})
        self._add(self._tables_and_charts(self._info))
        self._run.summary.update({"seconds": sum(self._events.values()), "seconds_references": seconds})
        if self._info.strategy == next(iter(self._info.config["strategies"])):
            self._send_stream(self._info)
        self._complete = True

    @override
    def failed(self, error: Exception) -> None:
        if self._run is not None and self._info is not None:
            what = "diverged" if isinstance(error, TrainingError) else "failed"
            title = f"{self._info.strategy} {what}"
            self._run.alert(title=title[-_LONGEST_TITLE:], text=f"{self._info.name}: {error}", level="ERROR")

    @override
    def end(self) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=0 if self._complete else 1)

    def _catch_up(self, folder: Path, first_event: int) -> None:
        """Bring the run up to an event, where it does not have all before it; their rows are in the run folder."""
        rows = _by_event(r for r in read_rows(folder / "results.jsonl") if r.event < first_event)
        for line in (folder / "timings.jsonl").read_text(encoding="utf-8").splitlines():
            timing = json.loads(line)
            if timing["event"] < first_event:
                self.event(timing["event"], rows.get(timing["event"], []), timing["act_s"])

    def _log(self, step: int, items: dict[str, Any]) -> None:
        if step >= self._run.starting_step:
            self._run.log(items, step=step, commit=True)

    def _add(self, items: dict[str, Any]) -> None:
        """Log what comes after the events, in a step of its own."""
        self._log(self._steps, items)
        self._steps += 1

    def _tables_and_charts(self, info: RunInfo) -> dict[str, Any]:
        """Return what happened, and what single requests and units came to, as tables and as charts."""
        table = import_module("wandb").Table
        tables = dict(self._wide.tables()) | {"events": self._what_happened(info)}
        items = {f"tables/{name}": table(heads, rows) for name, (heads, rows) in tables.items()}
        measure = measure_of(info.config["objective"]["name"])
        if units := self._wide.curve(measure, is_unit=True):
            items["charts/units"] = units_chart(units, measure)
        if requests := self._wide.curve(f"forget_{measure}", is_unit=False):
            items["charts/requests"] = requests_chart(requests, measure)
        return items

    def _what_happened(self, info: RunInfo) -> tuple[list[str], list[list[Any]]]:
        """Return a line for every experience and every request: several requests can be served by one event."""
        rows: list[list[Any]] = []
        for i, e in enumerate(info.stream.events):
            seconds = self._events.get(i)
            if isinstance(e, DeletionRequest):
                rows += [
                    [i, "forget", e.name, len(r.sample_ids), r.scope, " ".join(map(str, r.keys)), r.received, seconds]
                    for r in e.requests
                ]
            else:
                rows.append([i, "learn", e.name, len(e.sample_ids), None, None, None, seconds])
        return ["event", "kind", "name", "samples", "scope", "keys", "received", "seconds"], rows

    def _send_stream(self, info: RunInfo) -> None:
        """Send what the run folder says of stream and configuration, once for all its strategies."""
        folder = info.folder.parent.parent
        artifact = import_module("wandb").Artifact(f"{info.name}-{info.identity}", type="stream")
        for file in _STREAM_FILES:
            artifact.add_file(str(folder / file))
        self._run.log_artifact(artifact)

    def _open(self, info: RunInfo) -> Any:
        return self._server.start(
            info.folder,
            id=f"{info.identity}-{info.strategy}",
            group=self._group or f"{info.name}-{info.identity}",
            name=self._name(info),
            job_type="run",
            config=run_config(info),
        )

    def _name(self, info: RunInfo) -> str:
        """Return scenario, strategy, and what tells this run from others; a run that goes on keeps its name."""
        file = info.folder / "wandb" / "name.txt"
        if self._point is None and file.exists():
            return file.read_text(encoding="utf-8")
        seed = f"seed={info.config['seed']}"
        given = [part for part in (self._point or "").split(", ") if part]
        name = f"{info.name} {info.strategy} ({', '.join(given if seed in given else [*given, seed])})"
        name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        file.parent.mkdir(exist_ok=True)
        file.write_text(name, encoding="utf-8")
        return name


def logged(rows: Iterable[Row]) -> dict[str, float | None]:
    """Return what is logged as curves of the rows of one event: those about the whole.

    >>> rows = [Row(3, "run", "stream", "plasticity", 0.5, 2), Row(3, "retrained", "requests", "js", None, 0, "x")]
    >>> logged([*rows, Row(3, "run", "request-0", "forget_accuracy", 0.1, 2)])
    {'stream/plasticity': 0.5, 'retrained/requests/js': None}
    """
    return {
        f"{r.subject}/{r.metric}" if r.model == "run" else f"{r.model}/{r.subject}/{r.metric}": r.value
        for r in rows
        if r.subject in WHOLE
    }


def run_config(info: RunInfo) -> dict[str, Any]:
    """Return the configuration with dotted keys, with the one strategy in place of all, and what identifies the run."""
    config = {k: v for k, v in info.config.items() if k != "strategies"}
    config["strategy"] = {"name": info.strategy, **info.config["strategies"][info.strategy]}
    config |= {"identity": info.identity, "stream_digest": info.stream.digest(), "code": code_version()}
    if info.taken_from is not None:  # its seconds are those of that run
        config["taken_from"] = info.taken_from.name
    if sweep() is not None:
        config["sweep"] = sweep()
    return flatten(config)


def flatten(data: object, prefix: str = "") -> dict[str, Any]:
    """Return nested data as one level of dotted keys; lists of plain values stay whole.

    >>> flatten({"training": {"lr": 0.1}, "learner": [{"name": "ewc"}], "hidden": [64, 64]})
    {'training.lr': 0.1, 'learner.0.name': 'ewc', 'hidden': [64, 64]}
    """
    if isinstance(data, dict) and data:
        items: list[tuple[object, object]] = list(data.items())
    elif isinstance(data, list) and any(isinstance(v, dict | list) for v in data):
        items = list(enumerate(data))
    else:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _by_event(rows: Iterable[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for r in rows:
        groups.setdefault(r.event, []).append(r)
    return groups


def _picture(file: Path) -> Any:
    """Return the images that a model drew, beside each other."""
    with np.load(file) as arrays:
        beside = np.concatenate(list(arrays["pictures"][:, 0].transpose(0, 2, 3, 1)), 1)
        caption = "; ".join(arrays["asked"])
    return import_module("wandb").Image(beside, caption=caption)
