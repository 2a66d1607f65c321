"""Run a configuration, go on with a run, read one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lifelong.config.run import RunConfig
from lifelong.config.trust import remember
from lifelong.execution.life import Life
from lifelong.execution.manifest import check_begun, open_folder, read_run_config, write_manifest
from lifelong.execution.prefix import prefixes
from lifelong.execution.process import lock
from lifelong.execution.taken import offer, take_over
from lifelong.files import disk_errors
from lifelong.processes.settings import torch_settings
from lifelong.references.comparison import Shared
from lifelong.results.columns import read_some
from lifelong.results.integrity import check_finished, read_json
from lifelong.results.table import Table
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import Prepared, prepare
from lifelong.trackers._base import Tracker, Watch
from streams.errors import LifelongError


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


def run(
    config: RunConfig,
    root: Path | str = "runs",
    trackers: Sequence[Tracker] = (),
    fresh: bool = False,
    workers: int = 1,
) -> Run:
    """Play a stream to every strategy of `config`; go on where an earlier attempt stopped.

    Args:
        config: what to do.
        root: where run folders are kept. The folder's name is the configuration's, with a hash of configuration and
            code, so that the same run finds itself again and a finished one computes nothing. A strategy that another
            run there has lived through the same stream is taken over.
        trackers: told about everything that happens.
        fresh: delete what an earlier attempt left, and take over nothing.
        workers: processes that may live references beside each other; each takes as much memory as the run.

    Raises:
        LifelongError: bad input, a corrupt folder, diverged training. What was done so far stays on disk.
    """
    return run_prepared(prepare(config), root, trackers, fresh, workers)


def run_prepared(
    prepared: Prepared,
    root: Path | str = "runs",
    trackers: Sequence[Tracker] = (),
    fresh: bool = False,
    workers: int = 1,
) -> Run:
    """Do what `run` does with what `prepare` returned, for those who look at it in between."""
    config, folder = prepared.config, prepared.folder(root)
    with disk_errors(folder), lock(folder), torch_settings(config):
        if fresh:
            for part in ("strategies", "manifest.json"):
                _remove(folder / part)
        write_manifest(prepared, folder)
        remember(prepared.own_code, prepared.resolved)
        failed = []
        for name, open_life in lives(prepared, folder, Watch(trackers), workers, fresh).items():
            try:
                open_life().live()
                offer(prepared, name, folder)
            except LifelongError as error:  # the others go on: what happens to them does not depend on this one
                failed.append(error)
        if failed:
            for other in failed[1:]:
                failed[0].add_note(str(other))
            raise failed[0]
    return load_run(folder)


def lives(
    prepared: Prepared, folder: Path, watch: Watch, workers: int = 1, fresh: bool = False
) -> dict[str, Callable[[], Life]]:
    """Return by strategy what opens its life; those with the same learner live the beginning once, the first of them.

    Args:
        prepared, folder: the run.
        watch: told about everything that happens.
        workers, fresh: as in `run`.
    """
    p, config = prepared, prepared.config
    instruments = make_instruments(config.evaluation, p.stream, p.plan, p.setting, config.device)
    common = Shared(p, instruments.evaluator, workers)
    shared = prefixes(p.stream, p.resolved["strategies"])

    def opened(name: str) -> Life:
        place = folder / "strategies" / name
        taken = None if fresh or (place / "done.json").exists() else take_over(p, name, folder)
        return Life(p, name, place, instruments, common, watch, shared.get(name), taken)

    return {name: partial(opened, name) for name in config.strategies}


def resume(folder: Path | str, trackers: Sequence[Tracker] = (), trust: bool = False, workers: int = 1) -> Run:
    """Go on with the run in `folder`.

    Args:
        folder: of the run.
        trackers: told about everything that happens.
        trust: whether files that the folder names may run although they have not been run on this machine before.
        workers: as in `run`.

    Raises:
        CheckpointError: there is no run, or it was made by another version of the code or other data.
        TrustError: it names files that may not run.
    """
    folder = Path(folder).resolve()
    return run(open_folder(folder, trust), folder.parent, trackers, workers=workers)


def load_run(folder: Path | str) -> Run:
    """Read a run folder, finished or not.

    Raises:
        CheckpointError: it is not a run folder, or its configuration, its stream or a file of a strategy that is done
            was cut or edited.
    """
    folder = Path(folder)
    config = read_run_config(folder)
    if (folder / "manifest.json").exists():  # otherwise the run was killed before its first event
        check_begun(folder)
    tables, summaries = {}, {}
    for name in config.strategies:
        results = folder / "strategies" / name / "results.jsonl"
        done = results.with_name("done.json")
        if done.exists():
            summaries[name] = read_json(done, "Run again with --fresh.")
            check_finished(done.parent, summaries[name])
        tables[name] = Table(read_some(results, None) if results.exists() else [])
    return Run(folder, config, tables, summaries)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
