"""`run` and `resume`: play a stream to every strategy, show how far it is, and print what came out."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.arguments import OVERRIDABLE, RunFolders, Runs, Set, Trackers, Trust, What, split
from cli.folders import find_runs
from cli.output import Json, note
from cli.tables import show_runs, show_seeds
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.config.run import RunConfig
    from lifelong.execution.runner import Run
    from lifelong.results.table import Row
    from lifelong.setup.preparation import Prepared
    from lifelong.trackers._base import RunInfo, Tracker
    from lifelong.trackers.console import ConsoleTracker

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Wandb = Annotated[
    bool, typer.Option("--wandb/--no-wandb", help="Send every row to Weights & Biases; kept offline without a key.")
]
Workers = Annotated[
    int,
    typer.Option(
        min=1, help="Processes that live references beside each other, where that saves time; each needs memory."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(context_settings=OVERRIDABLE)(run)
    app.command()(resume)


def run(
    context: typer.Context,
    what: What,
    sets: Set = [],  # noqa: B006 (Typer copies it)
    runs: Runs = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier attempt left.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    wandb: Wandb = False,
    trackers: Trackers = [],  # noqa: B006 (Typer copies it)
    trust: Trust = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, help="Run so many seeds, from `seed` on, and print their means with intervals."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that live references beside each other, where that saves time; each needs memory. With "
            "--seeds: that run seeds; by default one per core.",
        ),
    ] = None,
) -> None:
    """Play a stream to every strategy; go on where an earlier attempt stopped.

    Example: lifelong run quickstart --set seed=1 --training.lr=0.1; or lifelong run quickstart --seeds 16
    """
    name, overrides = split(what, context)
    if seeds is not None:
        if fresh:
            raise ConfigError("--fresh deletes one run, and --seeds are many. Leave one of them out.")
        told = Told(wandb, trackers, ", ".join(a for a in (*sets, *overrides) if not a.startswith("seed=")))
        _run_seeds(name, [*sets, *overrides], seeds, runs, workers, quiet, as_json, told, trust)
        return

    def configured() -> RunConfig:
        from lifelong.config.run import load_config

        return load_config(name, [*sets, *overrides], trust)

    told = Told(wandb, trackers, ", ".join([*sets, *overrides]))
    play_config(configured, runs, fresh, quiet, as_json, told, workers or 1)


def play_config(
    configured: Callable[[], RunConfig],
    runs: Path,
    fresh: bool,
    quiet: bool,
    as_json: bool,
    told: Told | None = None,
    workers: int = 1,
) -> None:
    """Run a configuration, which is loaded when Ctrl-C is handled, and print what came out."""
    told = told or Told()

    def play(trackers: list[Tracker]) -> Run:
        from lifelong.execution.runner import run_prepared
        from lifelong.setup.preparation import prepare

        prepared = prepare(configured())
        if not quiet:
            _announce(prepared, prepared.folder(runs))
        return run_prepared(prepared, runs, trackers, fresh, workers)

    _finish([_watched(play, quiet, told)], as_json, told.wandb)


def _run_seeds(
    name: str,
    assignments: list[str],
    count: int,
    runs: Path,
    workers: int | None,
    quiet: bool,
    as_json: bool,
    told: Told,
    trust: bool,
) -> None:
    """Run a configuration under many seeds, and print one table."""
    from lifelong.study.forkserver import start_forkserver

    start_forkserver()  # its imports go on beside our own
    from lifelong.config.run import load_config
    from lifelong.execution.runner import load_run
    from lifelong.processes.stopping import stopping
    from lifelong.setup.preparation import prepare
    from lifelong.study.jobs import is_done
    from lifelong.study.local import run_local
    from lifelong.study.many_seeds import jobs_of_seeds
    from lifelong.study.progress import Progress

    config = load_config(name, assignments, trust)
    group = f"{config.name}-seeds" if told.wandb else None
    jobs = jobs_of_seeds(config, count, runs, told.point or "", group, told.trackers)
    pending = [job for job in jobs if not is_done(job)]
    if pending:
        prepare(config)  # what is wrong with it is said once
    if not quiet:
        first, last = config.seed, config.seed + count - 1
        note(f"{config.name}: seeds {first} to {last}, {count - len(pending)} of them finished before; folder {runs}")
    failed = []
    try:
        with stopping(), Progress(jobs, silent=quiet) as progress:
            for result in run_local(pending, workers):
                progress.result(result)
                failed += [result] if result.error else []
    except KeyboardInterrupt:
        done = sum(map(is_done, jobs))
        note(
            f"\nStopped with {done} of {count} seeds finished; what they did is saved. Give the same command to go on."
        )
        raise typer.Exit(130) from None
    show_seeds([load_run(job.folder) for job in jobs if is_done(job)], as_json)
    for result in failed:
        again = " ".join(map(shlex.quote, [name, *(f"--set={a}" for a in assignments), f"--set={result.job.label}"]))
        note(f"\nFAILED: {result.job.label}\n{str(result.error).rstrip()}\nRun it alone:\n  lifelong run {again}")
    if failed:
        raise typer.Exit(1)


def resume(
    folders: RunFolders,
    quiet: Quiet = False,
    as_json: Json = False,
    wandb: Wandb = False,
    trackers: Trackers = [],  # noqa: B006 (Typer copies it)
    trust: Trust = False,
    workers: Workers = 1,
    runs: Runs = Path("runs"),
) -> None:
    """Go on with interrupted runs, one after the other; each ends as if it had never been interrupted, to the bit."""

    def play(folder: Path, watching: list[Tracker]) -> Run:
        from lifelong.execution import runner

        return runner.resume(folder, watching, trust, workers)

    told = Told(wandb, trackers, None)
    played = [_watched(partial(play, folder), quiet, told) for folder in find_runs(folders, runs)]
    _finish(played, as_json, wandb)


def _finish(played: list[Run], as_json: bool, wandb: bool) -> None:
    """Print what came out, and send the reports where they are wanted."""
    reports = show_runs(played, as_json)
    if wandb:
        from lifelong.study.share import share_run

        for run, report in zip(played, reports, strict=True):
            share_run(run, report)


def _announce(prepared: Prepared, folder: Path) -> None:
    stream, config = prepared.stream, prepared.config
    references = config.references.in_words(len(stream.requests))
    note(
        f"stream {prepared.stream_digest}: {len(stream.events)} events on {stream.source.name} "
        f"({len(stream.experiences)} to learn, {len(stream.requests)} to forget)\n"
        f"{len(config.strategies)} strategies: {', '.join(config.strategies)}; references: {references}\n"
        f"folder {folder}"
    )
    from lifelong.setup.without_effect import untuned, without_effect

    for said in [*prepared.strategies.became, *without_effect(prepared.strategies.parts, config.training)]:
        note(said)
    if said := untuned(prepared.strategies.parts):
        note(said)


def _watched(play: Callable[[list[Tracker]], Run], quiet: bool, told: Told) -> Run:
    """Play with trackers; if the user stops it, say where it stands and how to go on."""
    console: ConsoleTracker | None = None
    interruption = _Interruption()
    try:
        with interruption.put_off():
            from lifelong.trackers.console import ConsoleTracker
            from strategies.parts.training.progress import stop_after_step

        console = ConsoleTracker(silent=quiet)
        trackers: list[Tracker] = [console, interruption]
        if told.wandb:
            from lifelong.trackers.wandb import WandbTracker

            trackers.append(WandbTracker(point=told.point))
        if told.trackers:
            from lifelong.trackers._base import load_tracker

            trackers += map(load_tracker, told.trackers)
        with interruption.at_once(stop_after_step):
            result = play(trackers)
    except BaseException as error:
        if not (interruption.came or isinstance(error, KeyboardInterrupt)):
            raise
        if console is None or console.folder is None:
            note("\nStopped before the first event; nothing was computed yet.")
        else:
            command = f"lifelong resume {shlex.quote(str(console.folder))}"
            note(f"\nStopped {console.position}; saved. Go on with:\n  {command}")
        raise typer.Exit(130) from None
    if console.folder is None and not quiet:
        note("Nothing to compute: this run was finished before.")
    return result


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told of a run besides the terminal.

    Attributes:
        wandb: whether Weights & Biases is.
        trackers: names or files of others.
        point: options that were changed, as people read them; None where a run goes on.
    """

    wandb: bool = False
    trackers: Sequence[str] = ()
    point: str | None = ""


class _Interruption:
    """Ctrl-C or SIGTERM, also where a library swallows the exception or turns it into another, as torch.save does.

    It is a tracker, so that a run that went on regardless stops at its next event.
    """

    def __init__(self) -> None:
        self.came = False

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Stop at the end only: torch 2.13 aborts the process if Ctrl-C comes while torch is being imported."""
        with self._handled(raising=False):
            yield
        self._stop()

    @contextlib.contextmanager
    def at_once(self, soon: Callable[[], bool]) -> Iterator[None]:
        """Stop where it comes, unless `soon` says that training will stop after its step; at a second Ctrl-C always."""
        with self._handled(raising=True, soon=soon):
            yield

    @contextlib.contextmanager
    def _handled(self, raising: bool, soon: Callable[[], bool] = lambda: False) -> Iterator[None]:
        def handle(number: int, frame: object) -> None:
            again, self.came = self.came and number == signal.SIGINT, True
            if raising and (again or not soon()):
                raise KeyboardInterrupt

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as in a script that was sent to the background
                signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        if self.came:
            raise KeyboardInterrupt

    def begin(self, info: RunInfo, first_event: int) -> None:
        """See `Tracker`."""
        self._stop()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """See `Tracker`."""
        self._stop()

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """See `Tracker`."""
        self._stop()

    def failed(self, error: Exception) -> None:
        """See `Tracker`."""

    def end(self) -> None:
        """See `Tracker`."""
