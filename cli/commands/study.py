"""`study`: many runs that answer one question, and the verdicts on what was claimed before they ran."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import NAMED, Address, Cpus, Memory, On, Runs, Trackers, Trust, Where
from cli.folders import STUDY, find_folder
from cli.output import Json, emit, emit_json, emit_table, note
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.study.jobs import JobResult
    from lifelong.study.study import Study
    from lifelong.study.tuning import Tuning


_NUMBERS = ("mean", "interval", "both sides", "seeds", "p", "corrected p")

_LEGEND = (
    "mean: over seeds; where there is a grid, a seed's number is the mean over all its points, unless points are named",
    "both sides: means of the two that are compared, where there are two",
    "p: how often a difference as large comes by chance if there is none; corrected p: for the number of criteria",
    "verdict: reproduced or contradicted if the mean is beyond the bar, or short of it, by more than chance explains",
)
"""What the columns of verdicts and comparisons mean."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(study)


def study(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER", help=f"A study file, or a study folder to go on with. {NAMED}", show_default=False
        ),
    ],
    size: Annotated[str | None, typer.Option(help="A size that the file names, usually small or full.")] = None,
    on: On = Where.LOCAL,
    address: Address = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine; by default one per core.")
    ] = None,
    cpus: Cpus = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that a run takes on Ray; 0.25 lets four share one.")] = 0.0,
    memory: Memory = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be computed, with an estimate of time and disk.")
    ] = False,
    list_jobs: Annotated[
        bool, typer.Option("--list-jobs", help="Only number the runs, for the job array of a cluster.")
    ] = False,
    job: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|slurm", help="Only run that one of --list-jobs; slurm: $SLURM_ARRAY_TASK_ID."),
    ] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Only judge what is finished.")] = False,
    runs: Runs = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Json = False,
    wandb: Annotated[bool, typer.Option("--wandb/--no-wandb", help="Send all runs to Weights & Biases.")] = False,
    trackers: Trackers = [],  # noqa: B006 (Typer copies it)
    trust: Trust = False,
) -> None:
    """Run all runs of a study, go on where it was stopped, and judge its criteria.

    Exit codes: 0 nothing is contradicted, 1 a run failed, 3 a criterion is contradicted (corrected for their number).
    """
    if dry_run + list_jobs + collect + (job is not None) > 1:
        raise ConfigError("--dry-run, --list-jobs, --job and --collect each do one thing: give one of them.")
    if on is Where.LOCAL and not (dry_run or list_jobs or collect or job is not None):
        from lifelong.study.forkserver import start_forkserver

        start_forkserver()  # its imports go on beside our own
    opened_study = _open(what, size, runs, trust)
    if dry_run:
        _forecast(opened_study, workers, as_json)
        return
    if list_jobs:
        _list(opened_study, as_json)
        return
    if trackers:
        from lifelong.trackers._base import load_tracker

        list(map(load_tracker, trackers))  # what is wrong with a file is said before any run
    if job is not None:
        _run_one(opened_study, _number(job), wandb, trackers)
        return
    if collect:
        opened_study.collect()
    results = [] if collect else _run(opened_study, on, address, workers, cpus, gpus, memory, quiet, wandb, trackers)
    failed = [r for r in results if r.error]
    outcome = opened_study.outcome()
    report = _report(opened_study)
    if wandb:
        from lifelong.study.share import share

        share(opened_study, report)
    if as_json:
        emit_json(
            outcome | {"folder": str(opened_study.folder), "report": str(report), "failed": _failures(opened_study)}
        )
    else:
        _show(outcome)
        emit(f"report: {report}" if report else f"folder: {opened_study.folder}")
    _blame(opened_study, failed)
    if failed:
        raise typer.Exit(1)
    if any(v["outcome"] == "contradicted" for v in outcome["verdicts"]):
        raise typer.Exit(3)


def _open(path: Path, size: str | None, runs: Path, trust: bool) -> Study:
    from lifelong.study.study import Study, resume_study

    if not path.exists() and path.suffix not in {".yaml", ".yml"}:
        try:
            path = find_folder(str(path), runs, (STUDY,))
        except ConfigError as error:
            raise ConfigError(
                f"{error} A study of a ready scenario is a file that says `base: {path}` (docs/studies.md)."
            ) from error
    if not path.is_dir():
        return Study(path, size, runs)
    if size is not None:
        raise ConfigError(f"--size {size}: a study folder has its size already. Name the study file instead of {path}.")
    return resume_study(path, trust)


def _list(study: Study, as_json: bool) -> None:
    """Print the number of every run, all that may be needed."""
    from lifelong.study.jobs import is_done

    study.require_tuned("--list-jobs")
    if as_json:
        emit_json([{"job": n, "run": j.label, "done": is_done(j)} for n, j in enumerate(study.all_jobs)])
        return
    rows = [[str(n), "done" if is_done(j) else "to do", j.label] for n, j in enumerate(study.all_jobs)]
    emit_table(["job", "", "run"], rows)


def _number(job: str) -> int:
    """Return the number of the job that this process is to run."""
    import os

    text = os.environ.get("SLURM_ARRAY_TASK_ID") if job == "slurm" else job
    if text is None:
        raise ConfigError(
            "--job slurm: $SLURM_ARRAY_TASK_ID is not set, so this is no task of an array. Name a number."
        )
    if not text.isdecimal():
        raise ConfigError(f"--job {text}: a number from 0 on, as --list-jobs shows them, or slurm.")
    return int(text)


def _run_one(study: Study, number: int, wandb: bool, trackers: Sequence[str]) -> None:
    """Run one job; what went wrong is its traceback."""
    from lifelong.processes.stopping import stopping

    try:
        with stopping():
            result = study.run_one(number, wandb, trackers)
    except KeyboardInterrupt:
        note("\nStopped; saved. The same command goes on.")
        raise typer.Exit(130) from None
    if result.error:
        note(f"FAILED: {result.job.label}\n{result.error.rstrip()}")
        raise typer.Exit(1)
    note(f"{result.job.label}: finished, {result.seconds:.0f} s. When all are, judge them: --collect")


def _run(
    study: Study,
    on: Where,
    address: str | None,
    workers: int | None,
    cpus: float,
    gpus: float,
    memory: float,
    quiet: bool,
    wandb: bool,
    trackers: Sequence[str],
) -> list[JobResult]:
    """Run what is not finished, with progress; if the user stops it, say how to go on."""
    from lifelong.processes.stopping import stopping
    from lifelong.study.progress import Progress

    if not quiet:
        _warn(study)
        todo = len(study.pending)
        note(
            f"study {study.config.name}: {study.config.claim}\n"
            f"{len(study.jobs)} runs, {len(study.jobs) - todo} of them finished before; folder {study.folder}"
        )
        if study.tuning is not None and study.tuned is None:
            note(_about(study.tuning))
        if not todo and study.tuned is not None:
            note("Nothing to compute: this study was finished before.")
        elif study.config.criteria:
            note(study.prospect())
    try:
        with stopping(), Progress(study.jobs if study.tuned is not None else [], silent=quiet) as progress:
            told, begin = progress.told, progress.expect
            return study.run(
                on.value, workers, address, cpus, gpus, memory, progress.result, wandb, begin, told, trackers
            )
    except KeyboardInterrupt:
        done = len(study.jobs) - len(study.pending)
        note(
            f"\nStopped with {done} of {len(study.jobs)} runs finished; the others are saved where they were. Go on "
            f"with:\n  lifelong study {shlex.quote(str(study.folder))}"
        )
        raise typer.Exit(130) from None


def _warn(study: Study) -> None:
    """Say what its runs set in vain."""
    from lifelong.setup.without_effect import without_effect

    configs = [cell.config for cell in study.cells if cell.seed == study.cells[0].seed]
    for said in dict.fromkeys(line for c in configs for line in without_effect(c.find_strategies(), c.training)):
        note(said)


def _about(tuning: Tuning) -> str:
    """Say what is tuned before the study is judged."""
    tune = tuning.tune
    who = "1 strategy is" if len(tuning.spaces) == 1 else f"{len(tuning.spaces)} strategies are"
    return (
        f"First {who} tuned ({' and '.join(tune.information)} information): "
        f"{tune.trials} trials each on seeds {', '.join(map(str, tune.seeds.search))}, at most {tuning.num_runs():,} "
        f"runs. A run whose training diverges counts as the worst."
    )


def _report(study: Study) -> Path | None:
    """Write the report; that it cannot be written does not take away what was found."""
    from lifelong.report.study import write_study_report

    try:
        return write_study_report(study)
    except OSError as error:
        note(f"The report could not be written: {error}. Write it elsewhere: lifelong report {study.folder} --out FILE")
        return None


def _show(outcome: dict[str, Any]) -> None:
    """Print verdicts and comparisons."""
    from lifelong.study.declaration import added

    for title, key in (("validity", "validity"), ("criterion", "verdicts")):
        if outcome[key]:
            rows = [
                [v["outcome"], v["name"], v["bar"], *_numbers(v, v["evidence"]["sides"]), v["reason"] or ""]
                for v in outcome[key]
            ]
            heads = ["verdict", title, "what", *_NUMBERS, "note"]
            emit_table(heads, rows, key)
    if outcome["comparisons"]:
        emit("")
        rows = [[f"{c['of']} - {c['minus']}", c["what"], *_numbers(c, c["sides"])] for c in outcome["comparisons"]]
        emit_table(["difference", "of", *_NUMBERS], rows, "comparisons")
    if outcome["verdicts"] or outcome["comparisons"]:
        for said in (f"interval: {outcome['rule']['interval']}", *_LEGEND):
            emit(f"  {said}")
    if outcome["variances"]:
        emit("")
        heads = ["number", "drawn anew", "times", "standard deviation", "note"]
        emit_table(heads, [r for c in outcome["variances"] for r in _components(c)], "variances")
    show_tuning(outcome.get("tuning", []))
    if outcome["looked_before"]:
        emit(added(outcome["looked_before"]))
    late = outcome["runs_done_when_criteria_were_declared"]
    if late and outcome["verdicts"]:
        emit(f"These criteria were declared, or changed, when {late} of {outcome['runs']} runs were finished already.")
    if outcome["runs_done"] < outcome["runs"]:
        emit(f"{outcome['runs_done']} of {outcome['runs']} runs are finished; the rest is left out.")


def show_tuning(searches: list[dict[str, Any]]) -> None:
    """Print what tuning came to."""
    from lifelong.report.tuning import HEADS, cells

    if searches:
        emit("")
        emit_table([head for head, _ in HEADS], [cells(s) for s in searches], "tuning")


def _numbers(row: dict[str, Any], sides: Sequence[float] | None) -> list[str]:
    """Return the cells of a verdict or a comparison that stand below `_NUMBERS`."""
    e = row["estimate"]
    scores = "-" if sides is None else f"{sides[0]:.4g}, {sides[1]:.4g}"
    if e is None:
        return ["-", "-", scores, "0", "-", "-"]
    interval = "-" if e["low"] is None else f"[{e['low']:.4g}, {e['high']:.4g}]"
    p_values = ["-", "-"] if e["low"] == e["high"] else [_p_value(e["p"]), _p_value(row["p_corrected"])]
    return [f"{e['mean']:.4g}", interval, scores, str(e["n"]), *p_values]


def _components(c: dict[str, Any]) -> list[list[str]]:
    label = f"{c['of']}: {c['what']}"
    if c["reason"]:
        return [[label, ", ".join(c["levels"]), "-", "-", c["reason"]]]
    return [
        [label, level, str(count), f"{variance**0.5:.3g}", "the estimate was negative" if negative else ""]
        for level, count, variance, negative in zip(
            c["levels"], c["counts"], c["variances"], c["negative"], strict=True
        )
    ]


def _p_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _failures(study: Study) -> list[dict[str, Any]]:
    from lifelong.study.declaration import read_verdicts

    failed: list[dict[str, Any]] = read_verdicts(study.folder / "verdicts.json")["failed"]
    return failed


def _blame(study: Study, failed: list[JobResult]) -> None:
    """Show what went wrong in each run that failed, and how to run it alone."""
    if not failed:
        return
    for failure in _failures(study):
        note(f"\nFAILED: {failure['job']}\n{failure['error'].rstrip()}\nRun it alone:\n  {failure['command']}")


def _forecast(study: Study, workers: int | None, as_json: bool) -> None:
    """Print what is finished and what is not, and what the rest would take."""
    from lifelong.study.forecast import forecast
    from lifelong.study.local import num_cores
    from lifelong.study.progress import clock

    pending = {job.name for job in study.pending}
    if pending:
        study.check()
        note(f"Playing some of {len(pending)} runs for a while ...")
    cores = workers or num_cores()
    count = min(cores, max(len(pending), 1))
    estimate = forecast(study.pending, study.cells)
    wall_s = estimate.on(count)
    if study.tuning is not None and study.tuned is None:
        samples = study.tuning.samples()
        searched = forecast(*samples).times(study.tuning.num_runs() / len(samples[0]))
        beside = min(cores, study.tuning.num_at_once())
        estimate, wall_s, count = estimate + searched, wall_s + searched.on(beside), max(count, beside)
        note(_about(study.tuning))
    if study.config.criteria:
        note(study.prospect())
    if as_json:
        jobs = [{"run": j.label, "folder": str(j.folder), "done": j.name not in pending} for j in study.jobs]
        numbers = {"cpu_seconds": estimate.seconds, "wall_seconds": wall_s, "bytes": estimate.size}
        emit_json({"study": str(study.folder), "jobs": jobs, "workers": count, "estimate": numbers})
        return
    emit_table(["", "run"], [["to do" if j.name in pending else "done", j.label] for j in study.jobs])
    if not pending:
        emit("All runs are finished; nothing would be computed.")
        return
    tuned = " and the tuning before them" if study.tuned is None else ""
    emit(
        f"{len(study.jobs) - len(pending)} of {len(study.jobs)} runs are finished. The others{tuned} take about "
        f"{clock(wall_s)} on {count} cores and {estimate.size / 1e6:.0f} MB of disk, estimated from "
        f"some that were played for a while just now; beside other work it takes longer."
    )
    if more := len(study.all_jobs) - len(study.jobs):
        emit(f"That is to the next look; {more} more runs follow if a criterion is undecided then, to the last look.")
