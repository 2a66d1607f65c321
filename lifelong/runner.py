"""The loop: strategies live through a stream, are measured, recorded, and held against references."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from lifelong.build import make_setting, make_source, make_strategy, make_stream
from lifelong.config import RunConfig, content_hash, read_config, resolve_strategy
from lifelong.evaluation import EvaluationPlan, Evaluator, Outputs, plan_evaluation
from lifelong.files import cache_folder, code_version, write_atomically
from lifelong.measure import Measure, cost_rows
from lifelong.metrics.gaps import distance_rows, request_gap_rows, stream_gap_rows
from lifelong.metrics.requests import mean_rows
from lifelong.play import Step, ledger_after, restore, step
from lifelong.record import Checkpoint, Record
from lifelong.references import Cost, Point, References, chain, points_of, reference_config
from lifelong.table import Row, Table, read_rows
from lifelong.trackers._base import RunInfo, Tracker, Watch
from strategies.base import Setting, Strategy
from streams.config import parse
from streams.errors import CheckpointError, ConfigError, LifelongError
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.stream import Stream

_SECOND_SEED = 1_000_003


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything a run needs, before any compute is spent.

    Attributes:
        config: as given; `resolved` has every option written out.
        stream, setting, plan: what is lived through, with what, and what it is measured on.
        identity: hash of resolved configuration and code.
        data_digest: hash of the source.
    """

    config: RunConfig
    resolved: dict[str, Any]
    stream: Stream
    setting: Setting
    plan: EvaluationPlan
    identity: str
    data_digest: str

    def folder(self, root: Path | str) -> Path:
        """Return the run folder below `root`."""
        return Path(root) / f"{self.config.name}-{self.identity}"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run on disk.

    Attributes:
        folder: the run folder.
        config: its configuration.
        tables: rows by strategy.
        summaries: access, cost of references and seconds by strategy, of those that are done.
    """

    folder: Path
    config: RunConfig
    tables: dict[str, Table]
    summaries: dict[str, dict[str, Any]]

    @property
    def done(self) -> bool:
        """Whether every strategy has lived to the end."""
        return set(self.summaries) == set(self.config.strategies)


def prepare(config: RunConfig) -> Prepared:
    """Load the data, build the stream, and work out what is measured: everything that can fail before compute.

    Raises:
        LifelongError: the configuration or the data is not valid.
    """
    if config.device != "cpu" and not (config.device.startswith("cuda") and torch.cuda.is_available()):
        raise ConfigError(f"device: {config.device!r} is not available here. Use cpu.")
    resolved = config.resolved()
    stream = make_stream(config, make_source(config))
    setting = make_setting(config, stream)
    for name, strategy in config.strategies.items():
        make_strategy(strategy, setting, f"strategies.{name}")
    return Prepared(
        config=config,
        resolved=resolved,
        stream=stream,
        setting=setting,
        plan=plan_evaluation(stream, config.evaluation),
        identity=content_hash([resolved, code_version()]),
        data_digest=stream.source.digest(),
    )


def run(config: RunConfig, root: Path | str = "runs", trackers: Sequence[Tracker] = (), fresh: bool = False) -> Run:
    """Play a stream to every strategy of `config`; go on where an earlier attempt stopped.

    Args:
        config: what to do.
        root: where run folders are kept. The folder's name is the configuration's, with a hash of configuration and
            code, so that the same run finds itself again and a finished one computes nothing.
        trackers: told about everything that happens.
        fresh: delete what an earlier attempt left.

    Raises:
        LifelongError: bad input, a corrupt folder, diverged training. What was done so far stays on disk.
    """
    return run_prepared(prepare(config), root, trackers, fresh)


def run_prepared(
    prepared: Prepared, root: Path | str = "runs", trackers: Sequence[Tracker] = (), fresh: bool = False
) -> Run:
    """Do what `run` does with what `prepare` returned, for those who look at it in between."""
    config, folder = prepared.config, prepared.folder(root)
    with _disk_errors(folder), _lock(folder), _torch_settings(config):
        if fresh:
            for part in ("strategies", "manifest.json"):
                _remove(folder / part)
        _write_manifest(prepared, folder)
        watch = Watch(trackers)
        evaluator = Evaluator(
            prepared.stream, prepared.plan, prepared.setting, config.evaluation.batch_size, config.device
        )
        for name in config.strategies:
            _Life(prepared, name, folder / "strategies" / name, evaluator, watch).live()
    return load_run(folder)


def resume(folder: Path | str, trackers: Sequence[Tracker] = ()) -> Run:
    """Go on with the run in `folder`.

    Raises:
        CheckpointError: there is no run, or it was made by another version of the code or other data.
    """
    folder = Path(folder).resolve()
    config = _read_run_config(folder)
    prepared_identity = content_hash([config.resolved(), code_version()])
    if not folder.name.endswith(prepared_identity):
        raise CheckpointError(
            f"{folder} was made by another version of the code (its name does not end in {prepared_identity}), and "
            f"cannot go on exactly. Start again: lifelong run {folder / 'config.yaml'}"
        )
    return run(config, folder.parent, trackers)


def load_run(folder: Path | str) -> Run:
    """Read a run folder, finished or not.

    Raises:
        CheckpointError: it is not a run folder.
    """
    folder = Path(folder)
    config = _read_run_config(folder)
    tables, summaries = {}, {}
    for name in config.strategies:
        results = folder / "strategies" / name / "results.jsonl"
        tables[name] = Table(read_rows(results) if results.exists() else [])
        done = results.with_name("done.json")
        if done.exists():
            summaries[name] = _read_json(done, "Delete it and resume the run to write it again.")
    return Run(folder, config, tables, summaries)


class _Life:
    """One strategy's way through the stream of a run."""

    def __init__(self, prepared: Prepared, name: str, folder: Path, evaluator: Evaluator, watch: Watch) -> None:
        self._p, self._name, self._evaluator, self._watch = prepared, name, evaluator, watch
        self._config = prepared.config.strategies[name]
        self._record = Record(folder, prepared.identity, len(prepared.plan.ids))
        self._last = len(prepared.stream.events) - 1
        self._info = RunInfo(prepared.config.name, prepared.identity, name, prepared.resolved, prepared.stream, folder)

    def live(self) -> None:
        """Live to the end, then compute references. Nothing happens if that was done before."""
        try:
            if self._record.done:
                return
            self._play()
            rows, cost = self._references()
            self._record.write(rows)
            self._watch.references(rows, cost.seconds)
            self._record.finish(self._summary(cost))
        finally:
            self._record.close()
            self._watch.end()

    def _play(self) -> None:
        stream, measure = self._p.stream, Measure(self._p.stream, self._p.plan, self._p.setting.objective.measure)
        strategy = make_strategy(self._config, self._p.setting, f"strategies.{self._name}")
        ledger = self._ledger()
        first = self._go_on(strategy, ledger, measure)
        self._watch.begin(self._info, first)
        for index in range(first, len(stream.events)):
            started = time.perf_counter()
            done = self._step(strategy, index, ledger)
            acted = time.perf_counter()
            outputs = self._evaluator.evaluate(strategy, self._detailed(index))
            evaluated = time.perf_counter()
            state = strategy.state_dict()
            rows = measure.update(index, outputs)
            rows += cost_rows(index, stream, self._p.plan, done, state, len(strategy.stored_ids()))
            self._record.write(rows, outputs)
            if outputs.probabilities is not None or outputs.features is not None:
                self._record.write_details(index, outputs)
            self._record.write_timing({"event": index, "act_s": acted - started, "evaluate_s": evaluated - acted})
            must = isinstance(stream.events[index], DeletionRequest) or index == self._last
            self._record.save(Checkpoint(index, state), must)
            self._watch.event(index, rows, acted - started)

    def _step(self, strategy: Strategy, index: int, ledger: Ledger) -> Step:
        event = self._p.stream.events[index]
        try:
            return step(strategy, event, ledger)
        except LifelongError as error:
            raise type(error)(f"Strategy {self._name!r}, event {index} ({event.name}): {error}") from error

    def _go_on(self, strategy: Strategy, ledger: Ledger, measure: Measure) -> int:
        """Bring everything to where the last checkpoint left it; return the next event."""
        checkpoint = self._record.latest()
        if checkpoint is None:
            outputs = self._evaluator.evaluate(strategy)
            measure.start(outputs)
            self._record.write([], outputs)
            self._record.save(Checkpoint(-1, strategy.state_dict()), must=True)
            return 0
        scores, losses = self._record.read_outputs(checkpoint.event + 2)
        measure.start(Outputs(scores[0], losses[0]))
        for index in range(checkpoint.event + 1):
            measure.update(index, Outputs(scores[index + 1], losses[index + 1]))
        ledger_after(ledger, self._p.stream.events[: checkpoint.event + 1])
        restore(strategy, checkpoint.state, ledger)
        return checkpoint.event + 1

    def _ledger(self) -> Ledger:
        return Ledger(self._p.stream.source, self._p.stream.task_of, self._p.config.device)

    def _detailed(self, index: int) -> np.ndarray:
        """Positions to measure in detail after an event: of the request it serves, and at the end of all requests."""
        chosen = [
            a.detailed
            for a in self._p.plan.audits
            if a.event == index or (index == self._last and a.until > self._last)
        ]
        return np.unique(np.concatenate(chosen)) if chosen else np.array([], dtype=np.int64)

    def _references(self) -> tuple[list[Row], Cost]:
        """Compute all references and return the rows that hold the run against them."""
        stream, kinds = self._p.stream, self._p.config.references.kinds
        points = (
            points_of(stream, kinds) if stream.requests else [p for p in points_of(stream, kinds) if p.kind != "no-op"]
        )
        outputs: dict[Point, Outputs] = {}
        total = Cost()
        for family in (("retrained", "original", "withheld", "fresh"), ("retrained-2",), ("no-op",)):
            mine = [p for p in points if p.kind in family]
            if mine:
                references = self._family(mine[0])
                outputs |= references.compute({p: (chain(stream, p), self._detailed(p.event)) for p in mine})
                cost = references.cost
                total = Cost(
                    total.outcome + cost.outcome,
                    total.seconds + cost.seconds,
                    total.computed + cost.computed,
                    total.cached + cost.cached,
                )
        rows = [r for p in points for r in self._gaps(p, outputs[p])]
        return rows + self._mean_gaps(rows), total

    def _family(self, point: Point) -> References:
        """Return what computes a reference and all its relatives."""
        p = self._p
        config = reference_config(point.kind, self._config)
        seed = p.config.seed + (_SECOND_SEED if point.kind == "retrained-2" else 0)
        setting = make_setting(p.config, p.stream, seed)
        identity = content_hash(
            [
                code_version(),
                p.data_digest,
                seed,
                {k: p.resolved[k] for k in ("model", "objective", "training", "threads", "device", "evaluation")},
                resolve_strategy(config, self._name),
                p.plan.ids.tolist(),
                [u.classes for u in p.stream.units],
                p.stream.task_of is not None and p.stream.task_of.tolist(),
            ]
        )
        return References(
            lambda: make_strategy(config, setting, f"strategies.{self._name}"),
            self._ledger,
            self._evaluator,
            identity,
            cache_folder() / "references",
        )

    def _gaps(self, point: Point, reference: Outputs) -> list[Row]:
        plan, measure = self._p.plan, self._p.setting.objective.measure
        scores, losses = self._record.read_outputs(self._last + 2)
        run_outputs = self._record.read_details(point.event, scores[point.event + 1], losses[point.event + 1])
        rows = []
        if point.kind != "no-op":
            rows += stream_gap_rows(point.event, point.kind, run_outputs, reference, plan, measure)
        for number, audit in enumerate(plan.audits):
            mine = point.request is None or point.request == number
            due = audit.event == point.event or (point.event == self._last and audit.until > self._last)
            if mine and due:
                rows += request_gap_rows(point.event, point.kind, audit, run_outputs, reference, plan, measure)
                detailed = self._detailed(point.event)
                rows += distance_rows(point.event, point.kind, audit, detailed, run_outputs, reference)
        return rows

    def _mean_gaps(self, rows: list[Row]) -> list[Row]:
        """Return means over requests: when each was served (immediate_*), and at the end (final_*)."""
        measure = self._p.setting.objective.measure
        served = {a.request.name: a.event for a in self._p.plan.audits}
        metrics = (f"gap_forget_{measure}", f"gap_forget_test_{measure}", "gap_membership_auc", "js", "dd_cosine")
        result = []
        for kind in dict.fromkeys(r.model for r in rows):
            mine = [r for r in rows if r.model == kind and r.subject in served]
            for label, keep in (("immediate", True), ("final", False)):
                chosen = [r for r in mine if (r.event == served[r.subject] if keep else r.event == self._last)]
                for r in mean_rows(self._last, kind, chosen, metrics):
                    result.append(_renamed(r, f"{label}_{r.metric}"))
                absolute = [_absolute(r) for r in chosen if r.metric.startswith("gap_")]
                for r in mean_rows(self._last, kind, absolute, metrics[:3]):
                    result.append(_renamed(r, f"{label}_abs_{r.metric}"))
        return result

    def _summary(self, cost: Cost) -> dict[str, Any]:
        strategy = make_strategy(self._config, self._p.setting, f"strategies.{self._name}")
        return {
            "access": strategy.access.label(),
            "events": self._last + 1,
            "references": {
                "computed": cost.computed,
                "cached": cost.cached,
                "steps": cost.outcome.steps,
                "seconds": round(cost.seconds, 3),
            },
        }


def _renamed(r: Row, metric: str) -> Row:
    return Row(r.event, r.model, r.subject, metric, r.value, r.n, r.reason)


def _absolute(r: Row) -> Row:
    return Row(r.event, r.model, r.subject, r.metric, None if r.value is None else abs(r.value), r.n, r.reason)


def _write_manifest(p: Prepared, folder: Path) -> None:
    """Write config, stream and manifest, or check that what is there is the same.

    Raises:
        CheckpointError: the folder holds another stream or other data.
    """
    file = folder / "manifest.json"
    digests = {"identity": p.identity, "stream": p.stream.digest(), "data": p.data_digest}
    if file.exists():
        found = read_manifest(folder)["digests"]
        for name, digest in digests.items():
            if found.get(name) != digest:
                raise CheckpointError(
                    f"{file}: the {name} digest is {found.get(name)}, now it is {digest}. The {name} has changed since "
                    f"the run began (another data file, font or library version?). Run again with --fresh."
                )
        return
    write_atomically(folder / "config.yaml", yaml.safe_dump(p.resolved, sort_keys=False).encode())
    write_atomically(folder / "stream.json", json.dumps(_stream_manifest(p), indent=1).encode())
    manifest = {
        "digests": digests,
        "code": code_version(),
        "versions": _versions(),
        "platform": platform.platform(),
        "device": p.config.device,
        "threads": p.config.threads,
        "source": {"name": p.stream.source.name, "licence": p.stream.source.licence, "notes": p.stream.source.notes},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_atomically(file, json.dumps(manifest, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        CheckpointError: it is missing or corrupt.
    """
    file = folder / "manifest.json"
    if not file.exists():
        raise CheckpointError(f"{folder} is not a whole run folder: it has no manifest.json. Run again with --fresh.")
    data = _read_json(file, "Run again with --fresh to start over.")
    if not isinstance(data.get("digests"), dict):
        raise CheckpointError(f"{file} is corrupt (it has no digests). Run again with --fresh to start over.")
    return data


def _stream_manifest(p: Prepared) -> dict[str, Any]:
    return {
        "digest": p.stream.digest(),
        "seed": p.config.seed,
        **{k: p.resolved[k] for k in ("source", "scenario", "schedule", "service")},
        "units": [{"name": u.name, "classes": list(u.classes), "tests": len(u.test_ids)} for u in p.stream.units],
        "events": p.stream.describe(),
    }


def stream_from_manifest(file: Path) -> Stream:
    """Rebuild a stream from ``stream.json``.

    Raises:
        CheckpointError: the file is corrupt, or what is built has another digest (the first event that differs is
            named).
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        keys = {k: data[k] for k in ("seed", "source", "scenario", "schedule", "service")}
        expected, digest = data["events"], data["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not a stream manifest: {error!r}.") from error
    config = parse(RunConfig, keys)
    stream = make_stream(config, make_source(config))
    if stream.digest() != digest:
        built = stream.describe()
        differ = [i for i, (a, b) in enumerate(zip(expected, built, strict=False)) if a["digest"] != b["digest"]]
        where = f"event {differ[0]} differs" if differ else f"it has {len(built)} events instead of {len(expected)}"
        raise CheckpointError(f"{file}: the stream that is built has digest {stream.digest()}, not {digest}: {where}.")
    return stream


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("lifelong-simulator", "torch", "numpy", "scikit-learn", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _read_run_config(folder: Path) -> RunConfig:
    file = folder / "config.yaml"
    if not file.exists():
        raise CheckpointError(f"{folder} is not a run folder: it has no config.yaml.")
    return parse(RunConfig, read_config(file), str(file))


def _read_json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is corrupt ({error}). {remedy}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is corrupt (it holds no keys). {remedy}")
    return data


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep a second process out of the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"{folder} is being run by another process. Wait for it, or stop it.") from error
        yield


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Say what to do when the disk does not take what is written."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or folder)
        what = f"Cannot write to {place}: {error.strerror or error}."
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise LifelongError(f"{what} Free some space and run the same command again; nothing is lost.") from error
        cached = place.is_relative_to(cache_folder())
        remedy = "Point LIFELONG_CACHE at another folder" if cached else "Choose another place with --runs"
        raise ConfigError(f"{what} {remedy}; what was finished so far is kept.") from error


@contextlib.contextmanager
def _torch_settings(config: RunConfig) -> Iterator[None]:
    """Set threads and determinism for the run, and put them back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
