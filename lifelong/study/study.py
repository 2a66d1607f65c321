"""Study: lay out, run, tabulate, judge."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lifelong.config.run import RunConfig, content_hash
from lifelong.config.trust import remember, require_trust
from lifelong.execution.manifest import versions
from lifelong.execution.process import lock
from lifelong.execution.runner import Run, load_run
from lifelong.files import code_of, code_version, disk_errors, own_code, write_atomically
from lifelong.results.columns import read_columns, read_some
from lifelong.results.integrity import check_finished, read_json, table_files, with_digest
from lifelong.results.table import Table
from lifelong.setup.preparation import Prepared, prepare
from lifelong.study.checks import check, check_streams, metrics_needed
from lifelong.study.config import Cell, StudyConfig, in_size, lay_out, read_study, with_base
from lifelong.study.declaration import added, declaration, earlier_looks, read_declared, read_verdicts
from lifelong.study.inference import Rule, prospect
from lifelong.study.jobs import Job, JobResult, execute, is_done, make_jobs
from lifelong.study.judging import Difference, Verdict
from lifelong.study.place import Place
from lifelong.study.seeds import Looks, all_seeds, rule_of
from lifelong.study.tuning import Tuning
from lifelong.study.verdicts import Results
from streams.config import parse
from streams.errors import BusyError, ConfigError
from streams.files import check_on_disk
from streams.registry import is_file

_PATIENCE_S, _LOOK_AGAIN_S = 10.0, 0.2


class Study:
    """A study and its folder on disk."""

    def __init__(
        self,
        source: Path | str | StudyConfig | Mapping[str, Any],
        size: str | None = None,
        root: Path | str = "runs",
    ) -> None:
        """Read and lay out a study; nothing is computed yet.

        Args:
            source: a study file, or what one would hold.
            size: one of its sizes, or None for the study as written.
            root: where study folders are kept. Runs are kept beside them, in a folder of the study's name, so that a
                study that is extended finds those that it had before.

        Raises:
            ConfigError: it is not a valid study.
        """
        if isinstance(source, Path | str):
            self.file, config = Path(source), read_study(Path(source))
        else:
            self.file = Path("study.json")
            config = source if isinstance(source, StudyConfig) else parse(StudyConfig, dict(source), "study")
            config = with_base(config, Path())
        self.size, self.declared = size, config
        self.config = config if size is None else in_size(config, size)
        self._written = lay_out(self.config)
        root = check_on_disk(root, "root")
        place = root.absolute() / f"study-{self.config.name}"
        self.tuning = Tuning(self.config, self._written, place) if self.config.tune else None
        resolved = [c.resolved for c in self._written]
        searched = [self.tuning.identity] if self.tuning else []
        self.identity = content_hash([resolved, code_of(resolved), *searched])
        self.folder = root / f"study-{self.config.name}-{self.identity}"
        if self.tuning:
            self.tuning.open(self.folder, self.identity)
        self._place = place
        self._looked: tuple[int, ...] | None = None
        self._reached: int | None
        self._settle()
        check(self.config, self.cells)

    def _settle(self) -> None:
        """Lay out what is judged, with what tuning has come to."""
        self.tuned = self.tuning.tuned() if self.tuning else []
        self.cells = self.tuning.cells(self.tuned) if self.tuning else self._written
        self.all_jobs = make_jobs(self.cells, self._place)
        self._reached = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that the study has come to: all, or those of the look at which it stands."""
        seeds = all_seeds(self.config.seeds)
        if not isinstance(self.config.seeds, Looks):
            return seeds
        if self._reached is None:
            self._reached = next((n for n in self.config.seeds.looks if self._ends_at(n)), len(seeds))
        return seeds[: self._reached]

    @property
    def jobs(self) -> list[Job]:
        """Jobs of the seeds that the study has come to."""
        return self._jobs_of(self.seeds)

    @property
    def pending(self) -> list[Job]:
        """Jobs of these that are not finished on disk."""
        return [job for job in self.jobs if not is_done(job)]

    @property
    def looked_before(self) -> tuple[int, ...]:
        """Numbers of seeds at which verdicts were seen before the others were added, without a plan for that."""
        if self._looked is None:
            self._looked = earlier_looks(self.folder, self.config, self._written)
        return self._looked

    @property
    def rule(self) -> Rule:
        """How the study may conclude: as its seeds say, or, if it was looked at without a plan, at any time."""
        return Rule(anytime=True) if self.looked_before else rule_of(self.config.seeds)

    def prospect(self) -> str:
        """Say what the seeds can decide; see `lifelong.study.inference.prospect`."""
        told = prospect(self.rule, len(all_seeds(self.config.seeds)), len(self.config.criteria))
        return f"{told} {added(self.looked_before)}".strip()

    def _jobs_of(self, seeds: tuple[int, ...]) -> list[Job]:
        return [job for job in self.all_jobs if self.cells[job.cell].seed in seeds]

    def _ends_at(self, look: int) -> bool:
        """Whether the study stands at a look: its runs are not finished, or it decides every criterion."""
        seeds = all_seeds(self.config.seeds)[:look]
        if not all(map(is_done, self._jobs_of(seeds))):
            return True
        results = self._results_of(seeds, metrics_needed(self.config))
        return all(v.outcome != "undecided" for v in (*results.validity(), *results.verdicts()))

    def check(self, elsewhere: bool = False) -> None:
        """Find out what can be found out before compute: whether data are there, and criteria can be answered.

        Args:
            elsewhere: whether it is for other machines, which may have a device that this one has not.

        Raises:
            LifelongError: they are not, or cannot.
        """

        def settled(config: RunConfig) -> Prepared:
            return prepare(config.model_copy(update={"device": "cpu"}) if elsewhere else config, runs=False)

        check_streams(self.config, [c for c in self.cells if c.seed == self.cells[0].seed], settled)
        if self.tuning:
            self.tuning.check(settled(self._written[0].config).setting)

    def run(
        self,
        on: Literal["local", "ray"] = "local",
        workers: int | None = None,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        memory: float = 0.0,
        watch: Callable[[JobResult], None] | None = None,
        wandb: bool = False,
        begin: Callable[[list[Job]], None] | None = None,
        told: Callable[[str, int, int], None] | None = None,
        trackers: Sequence[str] = (),
    ) -> list[JobResult]:
        """Run what is not finished, look by look, and write verdicts.

        A script that calls this needs ``if __name__ == "__main__"``.

        Args:
            on: a pool of processes here, or Ray.
            workers: processes for local; None takes one per core.
            address: of a Ray cluster; None starts a local one.
            cpus, gpus, memory: resources of one job on Ray; memory in GB.
            watch: is told of every result as it comes in.
            wandb: also send everything to Weights & Biases.
            begin: is told of the jobs of every look before they start.
            told: is told how far a job on Ray is, see `run_ray`; of those here the run folders say it.
            trackers: names or files of trackers that are told of every run.

        Returns:
            The results of the jobs that ran; those with an error can be run again.

        Raises:
            LifelongError: bad input, a criterion about a number that the first finished run does not have, a folder
                that cannot be written to, or a cluster that does not answer.
        """
        place = Place(on, workers, address, cpus, gpus, memory)
        with disk_errors(self.folder):
            if self.pending or self.tuned is None:
                self.check(elsewhere=on == "ray")  # before the folder is made
        with disk_errors(self.folder), _locked(self.folder):
            self._reached = None  # another process may have gone on until now
            self._declare()
            remember(own_code([c.resolved for c in self.cells]), self._description()["config"])
            results, known = self._tune(place, begin, watch, told), set[str]()
            while self.tuned is not None and (jobs := self.pending) and not any(r.error for r in results):
                if begin is not None:
                    begin(jobs)
                for result in place.run([self._tracked(job, wandb, trackers) for job in jobs], told):
                    results.append(result)
                    if watch is not None:
                        watch(result)
                    if not result.error:
                        known |= self._check_numbers(result.job, known)
                self._reached = None
            self._conclude([r for r in results if r.error])
        return results

    def tune(
        self,
        place: Place | None = None,
        watch: Callable[[JobResult], None] | None = None,
        begin: Callable[[list[Job]], None] | None = None,
        told: Callable[[str, int, int], None] | None = None,
    ) -> list[JobResult]:
        """Run the searches alone, by default on all cores of this machine; see `run`."""
        place = place or Place()
        with disk_errors(self.folder):
            if self.tuned is None:
                self.check(elsewhere=place.on == "ray")
        with disk_errors(self.folder), _locked(self.folder):
            self._declare()
            return self._tune(place, begin, watch, told)

    def _tune(
        self,
        place: Place,
        begin: Callable[[list[Job]], None] | None,
        watch: Callable[[JobResult], None] | None,
        told: Callable[[str, int, int], None] | None,
    ) -> list[JobResult]:
        if self.tuning is None or self.tuned is not None:
            return []
        failed = self.tuning.run(lambda jobs: place.run(jobs, told), begin, watch)
        self._settle()
        return failed

    def require_tuned(self, option: str) -> None:
        """Refuse an option that numbers the judged runs while tuning is not finished.

        Raises:
            ConfigError: it is not.
        """
        if self.tuned is None:
            raise ConfigError(
                f"{option}: which runs are judged depends on the tuning, which is not finished. Run it with: lifelong "
                f"study {self.file}; it can be stopped when the first judged run begins, for a job array of these."
            )

    def run_one(self, number: int, wandb: bool = False, trackers: Sequence[str] = ()) -> JobResult:
        """Run one job here, beside others that run elsewhere on the same disk: a task of a job array.

        Args:
            number: its place in `all_jobs`.
            wandb, trackers: as in `run`.

        Raises:
            ConfigError: there is no job of that number, the study has to be tuned before, or the finished job lacks a
                number that the study asks for.
        """
        self.require_tuned(f"--job {number}")
        if not 0 <= number < len(self.all_jobs):
            raise ConfigError(f"--job {number}: the study has jobs 0 to {len(self.all_jobs) - 1} (--list-jobs).")
        with disk_errors(self.folder):
            with _locked(self.folder):
                self._declare()
            job = self.all_jobs[number]
            if is_done(job):
                return JobResult(job, 0.0)
            result = execute(self._tracked(job, wandb, trackers))
            if not result.error:
                self._check_numbers(job, set())
            return result

    def _tracked(self, job: Job, wandb: bool, trackers: Sequence[str]) -> Job:
        """Return a job that tells trackers; their files are found from wherever it runs."""
        files = tuple(str(Path(name).expanduser().resolve()) if is_file(name) else name for name in trackers)
        return replace(job, group=self.folder.name if wandb else None, trackers=files)

    def collect(self) -> None:
        """Write verdicts on what is finished; nothing is computed."""
        with disk_errors(self.folder), _locked(self.folder):
            self._declare()
            self._conclude([])

    def _check_numbers(self, job: Job, known: set[str]) -> set[str]:
        """Refuse what the study asks for and a finished job has not; return the strategies that are looked at here.

        Raises:
            ConfigError: strategies of the job that are not `known` lack a number.
        """
        needed = metrics_needed(self.config)
        tables = {name: Table(read_some(file, needed)) for _, name, file in finished([job]) if name not in known}
        Results(self.config, ((self.cells[job.cell], tables),)).check()
        return set(tables)

    def _conclude(self, failed: Sequence[JobResult]) -> None:
        commands = {r.job.label: self._command_alone(r.job) for r in failed}
        outcome = self.outcome() | {
            "failed": [{"job": r.job.label, "error": r.error, "command": commands[r.job.label]} for r in failed]
        }
        write_atomically(self.folder / "verdicts.json", with_digest(outcome))

    def runs(self) -> list[tuple[Cell, Run]]:
        """Return every run folder that exists, with the cell it belongs to."""
        return [(self.cells[j.cell], load_run(j.folder)) for j in self.jobs if (j.folder / "config.yaml").exists()]

    def results(self, everything: bool = True) -> Results:
        """Return the tables of the strategies that are finished, or only what the study asks for of them."""
        return self._results_of(self.seeds, None if everything else metrics_needed(self.config))

    def _results_of(self, seeds: tuple[int, ...], metrics: set[str] | None) -> Results:
        tables: dict[str, tuple[Cell, dict[str, Table]]] = {}
        for job, name, file in finished(self._jobs_of(seeds)):
            rows = read_some(file, metrics)
            tables.setdefault(job.name, (self.cells[job.cell], {}))[1][name] = Table(rows)
        return Results(self.config, tuple(tables.values()), self.rule, seeds)

    def frame(self) -> dict[str, list[object]]:
        """Return a tidy table of everything that is finished, as columns.

        They are the grid keys, seed, strategy, and those of `lifelong.Row`; ``pandas.DataFrame(study.frame())`` makes
        a data frame of them.
        """
        columns: dict[str, list[object]] = {}
        for job, name, file in finished(self.jobs):
            cell, rows = self.cells[job.cell], read_columns(file)
            for key, value in {**cell.values, "seed": cell.seed, "strategy": name}.items():
                columns.setdefault(key, []).extend([value] * len(rows["value"]))
            for key, column in rows.items():
                columns.setdefault(key, []).extend(column)
        return columns

    def verdicts(self) -> list[Verdict]:
        """Judge every criterion on what is finished."""
        return self.results(everything=False).verdicts()

    def differences(self) -> list[Difference]:
        """Make every comparison on what is finished."""
        return self.results(everything=False).differences()

    def outcome(self) -> dict[str, Any]:
        """Return what came out so far, and what it rests on, as plain data."""
        results = self.results(everything=False)
        return {
            "name": self.config.name,
            "claim": self.config.claim,
            "source": self.config.source,
            "file": str(self.file),
            "size": self.size,
            "identity": self.identity,
            "seeds": list(self.seeds),
            "rule": {"looks": list(self.rule.looks), "anytime": self.rule.anytime, "interval": self.rule.interval},
            "looked_before": list(self.looked_before),
            "runs": len(self.jobs),
            "runs_done": len(self.jobs) - len(self.pending),
            "runs_done_when_criteria_were_declared": self._description().get("runs_done_when_declared", 0),
            "code": code_version(),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
            "validity": [asdict(v) for v in results.validity()],
            "verdicts": [asdict(v) for v in results.verdicts()],
            "comparisons": [asdict(d) for d in results.differences()],
            "variances": [asdict(c) for c in results.components()],
        } | ({"tuning": self.tuning_outcome()} if self.tuning else {})

    def tuning_outcome(self) -> list[dict[str, Any]]:
        """Return what tuning came to, as plain data: nothing before it is finished.

        `helped` is the goal of the strategy as it is written minus that of the tuned one, over the judged seeds:
        above 0 tuning helped on seeds that it had not seen.
        """
        if self.tuning is None or not self.tuned:
            return []
        tables = self._results_of(self.seeds, self.tuning.metrics_read()).tables
        found = []
        for t in self.tuned:
            before = self.tuning.loss_by_seed(t.information, t.strategy, tables)
            after = self.tuning.loss_by_seed(t.information, t.name, tables)
            gains = [before[seed] - after[seed] for seed in before if seed in after]
            helped = self.rule.estimate(gains) if gains else None
            found.append({"name": t.name, **asdict(t), "helped": helped and asdict(helped)})
        return found

    def _declare(self) -> None:
        """Write down what the study is, and how many runs were finished when its criteria were first seen."""
        description = {
            "file": str(self.file),
            "size": self.size,
            "config": self.declared.model_dump(mode="json", exclude_unset=True),
            **declaration(self.folder, self.config, self._written, sum(map(is_done, self.all_jobs))),
            "looked_before": list(self.looked_before),
        }
        write_atomically(self.folder / "study.json", with_digest(description))

    def _description(self) -> dict[str, Any]:
        file = self.folder / "study.json"
        return read_declared(file) if file.exists() else {}

    def _command_alone(self, job: Job) -> str:
        """Write a job's configuration to the study folder; return the command that runs it alone."""
        file = self.folder / "failed" / f"{job.name}.yaml"
        write_atomically(file, yaml.safe_dump(job.config, sort_keys=False).encode())
        return f"lifelong run {file} --runs {job.root}"


def finished(jobs: Sequence[Job]) -> Iterator[tuple[Job, str, Path]]:
    """Yield every strategy that has lived to its end, with its job and its table."""
    for job in jobs:
        for name in job.config["strategies"]:
            folder = job.folder / "strategies" / name
            done = folder / "done.json"
            if done.exists():
                summary = read_json(done, "Delete the run folder and run the study again.")
                check_finished(folder, summary, table_files(folder))
                yield job, name, folder / "results.jsonl"


def resume_study(folder: Path | str, trust: bool = False) -> Study:
    """Return the study that a study folder belongs to, as it was declared when it ran last.

    Args:
        folder: of the study.
        trust: whether files that it names may run although they have not been run on this machine before.

    Raises:
        TrustError: it names files that may not run.
        ConfigError: it is not a study folder, or was made by another version of the code.
        CheckpointError: what it declared, or what came out, was damaged or edited.
    """
    folder = Path(folder).absolute()
    if not (folder / "study.json").exists():
        raise ConfigError(f"{folder} is not a study folder: it has no study.json.")
    description = read_declared(folder / "study.json")
    if (verdicts := folder / "verdicts.json").exists():
        read_verdicts(verdicts)
    try:
        file, size, config = description["file"], description["size"], description["config"]
    except KeyError as error:
        raise ConfigError(f"{folder} is not a study folder: its study.json has no {error}.") from error
    require_trust(config, folder, trust)
    study = Study(config, size, folder.parent)
    study.file = Path(file)
    if study.folder != folder:
        again = f"lifelong study {file}" + (f" --size {size}" if size else "")
        raise ConfigError(f"{folder} was made by another version of the code. Run the study again: {again}")
    return study


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of the study; one that was just killed gets a moment to be gone."""
    deadline = time.monotonic() + _PATIENCE_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder))
                break
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_AGAIN_S)
        yield
