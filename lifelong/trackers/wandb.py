"""Weights & Biases: one run per strategy, on its own `event` axis; offline where there is no key."""

from __future__ import annotations

import logging
import netrc
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from lifelong.metrics.catalogue import measure_of
from lifelong.results.record import shown_files
from lifelong.results.table import Row, read_rows
from lifelong.trackers._base import RunInfo
from streams.events import DeletionRequest

logger = logging.getLogger(__name__)

PROJECT = "lifelong"
"""Where everything goes unless ``$WANDB_PROJECT`` says otherwise."""

_DEFAULT_SERVER = "https://api.wandb.ai"
_REACH_S, _INIT_S = 3.0, 30.0


class WandbTracker:
    """Sends every row to W&B, one log call per event.

    The value of a row is logged as ``subject/metric`` (of a reference: ``model/subject/metric``). An undefined value
    is logged as None, with why as ``undefined/subject/metric``.

    An event has its index as W&B step; references, which belong to events that have passed, follow after the last
    one. So going on after a crash repeats nothing that the server has, and an offline folder, which has nothing to
    go on from, is replaced by one that begins with the rows of the run folder.
    """

    def __init__(self, project: str = PROJECT, group: str | None = None, point: str = "") -> None:
        """Nothing of W&B is imported or started before a strategy begins.

        Args:
            project: to log to; ``$WANDB_PROJECT`` goes before it.
            group: of runs; by default the run folder's name, so that its strategies are together.
            point: of the grid of a study, with the seed; follows the strategy in the run's name.
        """
        self._project, self._group, self._point = project, group, point
        self._run: Any = None
        self._info: RunInfo | None = None
        self._steps = 0
        self._scores: dict[int, dict[str, float | None]] = {}
        self._complete = False
        self._server = Server()

    def begin(self, info: RunInfo, first_event: int) -> None:
        """Open the W&B run of the strategy; bring it up to `first_event` if it does not have all rows before."""
        self._info, self._steps, self._complete, self._scores = info, len(info.stream.events), False, {}
        self._measure = measure_of(info.config["objective"]["name"])
        self._run = self._open(info)
        self._run.define_metric("event")
        self._run.define_metric("*", step_metric="event")
        if first_event:
            before = read_rows(info.folder / "results.jsonl")
            for event, rows in _by_event(r for r in before if r.event < first_event).items():
                self.event(event, rows, 0.0)

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """Log the rows of one event."""
        self._log(index, index, rows)
        self._scores[index] = _by_unit(rows, self._measure)

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """Log the rows that references gave, each group at its event."""
        for event, group in sorted(_by_event(rows).items()):
            self._log(self._steps, event, group)
            self._steps += 1
        self._log_images()
        self._log_tables()
        self._complete = True

    def end(self) -> None:
        """Close the W&B run; one that was interrupted is marked as failed, until it is gone on with."""
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=0 if self._complete else 1)

    def _log(self, step: int, event: int, rows: Sequence[Row]) -> None:
        if self._run is not None and step >= self._run.starting_step:
            self._run.log({"event": event, **logged(rows)}, step=step, commit=True)

    def _log_images(self) -> None:
        """Log the images that the run keeps for reports: of each model one picture, with the prompts in its caption."""
        if self._run is None or self._info is None:
            return
        for event, files in shown_files(self._info.folder).items():
            if self._steps >= self._run.starting_step:
                pictures = {f"images/{model}": _picture(file) for model, file in files.items()}
                self._run.log({"event": event, **pictures}, step=self._steps, commit=True)
            self._steps += 1

    def _log_tables(self) -> None:
        """Log the requests, and the score of every unit after every event."""
        if self._run is None or self._info is None or self._steps < self._run.starting_step:
            return
        table = import_module("wandb").Table
        units = [u.name for u in self._info.stream.units]
        matrix = [[event, *(scores.get(u) for u in units)] for event, scores in sorted(self._scores.items())]
        deletions = [
            [i, e.name, r.scope, " ".join(map(str, r.keys)), len(r.sample_ids), r.received]
            for i, e in enumerate(self._info.stream.events)
            if isinstance(e, DeletionRequest)
            for r in e.requests
        ]
        heads = ["event", "name", "scope", "keys", "samples", "received"]
        tables = {"tables/deletions": table(heads, deletions), "tables/scores": table(["event", *units], matrix)}
        self._run.log(tables, step=self._steps, commit=True)

    def _open(self, info: RunInfo) -> Any:
        return self._server.start(
            info.folder,
            id=f"{info.identity}-{info.strategy}",
            project=os.environ.get("WANDB_PROJECT") or self._project,
            group=self._group or f"{info.name}-{info.identity}",
            name=f"{info.strategy} ({self._point})" if self._point else info.strategy,
            job_type="run",
            config=run_config(info),
        )


class Server:
    """Starts W&B runs: online where there is a key and somebody answers, else offline for `wandb sync`."""

    def __init__(self) -> None:
        """Nobody has been asked yet."""
        self._unreachable = False

    def start(
        self, folder: Path, *, id: str, project: str, group: str, name: str, job_type: str, config: dict[str, Any]
    ) -> Any:
        """Start a run, or go on with the one that has this id; its files are kept in `folder`."""
        # W&B reports its own errors to a third party, also offline, unless told not to before it starts.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = import_module("wandb")
        mode = "offline" if self._unreachable else _mode()
        options: dict[str, Any] = {
            "id": id,
            "project": project,
            "group": group,
            "name": name,
            "job_type": job_type,
            "config": config,
            "resume": "allow",
            "dir": str(folder),
            "reinit": "create_new",
            "settings": _settings(wandb),
        }
        if mode == "online":
            try:
                return wandb.init(mode=mode, **options)
            except wandb.errors.Error as error:
                logger.warning("W&B cannot be reached and the run is kept offline (%s).", error)
                self._unreachable = True
                wandb.teardown()  # else the id counts as in use
                mode = "offline"
        for old in (folder / "wandb").glob(f"offline-run-*-{id}"):
            shutil.rmtree(old)
        return wandb.init(mode=mode, **options)


def logged(rows: Iterable[Row]) -> dict[str, float | str | None]:
    """Return what is logged of the rows of one event.

    >>> logged([Row(3, "run", "stream", "plasticity", 0.5, 2), Row(3, "retrained", "request-0", "js", None, 0, "x")])
    {'stream/plasticity': 0.5, 'retrained/request-0/js': None, 'undefined/retrained/request-0/js': 'x'}
    """
    values: dict[str, float | str | None] = {}
    for r in rows:
        key = f"{r.subject}/{r.metric}" if r.model == "run" else f"{r.model}/{r.subject}/{r.metric}"
        values[key] = r.value
        if r.reason is not None:
            values[f"undefined/{key}"] = r.reason
    return values


def run_config(info: RunInfo) -> dict[str, Any]:
    """Return the configuration with dotted keys, with the one strategy in place of all, and what identifies the run."""
    config = {k: v for k, v in info.config.items() if k != "strategies"}
    config["strategy"] = {"name": info.strategy, **info.config["strategies"][info.strategy]}
    config |= {"identity": info.identity, "stream_digest": info.stream.digest()}
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


def _by_unit(rows: Iterable[Row], measure: str) -> dict[str, float | None]:
    """Return the scores of single units."""
    return {r.subject: r.value for r in rows if r.model == "run" and r.metric == measure}


def _by_event(rows: Iterable[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for r in rows:
        groups.setdefault(r.event, []).append(r)
    return groups


def _settings(wandb: Any) -> Any:
    """Return settings under which W&B prints nothing, watches nothing, and does not make anyone wait."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        init_timeout=_INIT_S,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _mode() -> str:
    """Return what ``WANDB_MODE`` says, but offline where there is no key, or no server."""
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in {"online", "run"}:
        return mode
    server = os.environ.get("WANDB_BASE_URL") or _DEFAULT_SERVER
    if not _has_key(server):
        return "offline"
    if _reachable(server):
        return "online"
    logger.warning("W&B at %s cannot be reached; the run is kept offline, for `wandb sync`.", server)
    return "offline"


def _has_key(server: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(file).authenticators(urlsplit(server).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _reachable(server: str) -> bool:
    """Return whether the server takes a connection; behind a proxy this cannot be told and is taken for granted."""
    url = urlsplit(server)
    port = url.port or (80 if url.scheme == "http" else 443)
    if urllib.request.getproxies().get(url.scheme):
        return True
    try:
        with socket.create_connection((url.hostname or "", port), _REACH_S):
            return True
    except OSError:
        return False


def _picture(file: Path) -> Any:
    """Return the images that a model drew, beside each other."""
    with np.load(file) as arrays:
        beside = np.concatenate(list(arrays["pictures"][:, 0].transpose(0, 2, 3, 1)), 1)
        caption = "; ".join(arrays["asked"])
    return import_module("wandb").Image(beside, caption=caption)
