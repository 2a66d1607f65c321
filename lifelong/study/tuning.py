"""Tuning: the same number of trials for every strategy, on seeds of their own, before the study is judged.

A trial is a setting of one strategy's options. Its runs are runs like any other, one for each seed: they are kept,
resumed and shared as all are. What was read of them, and what was proposed, is noted in ``tuning.json`` of the study
folder; where that file is lost, the same is found again from the runs. Who goes on and who is chosen: `racing.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lifelong.config.run import content_hash
from lifelong.files import write_atomically
from lifelong.results.columns import read_some
from lifelong.results.integrity import read_json, with_digest
from lifelong.results.table import Table
from lifelong.setup.build import make_strategy
from lifelong.study.config import Cell, StudyConfig, lay_out
from lifelong.study.jobs import Job, JobResult, is_done, make_jobs
from lifelong.study.progress import last_line
from lifelong.study.proposals import Tried, propose
from lifelong.study.racing import Trial, Tuned, conclude, mean, prune, ranked, tuned_name
from lifelong.study.seeds import all_seeds
from lifelong.study.spaces import ends, spaces_of, value_at, with_options
from lifelong.study.tune import Information, Term, Tune, goal_of, losses, metrics_read, reads_shadows
from strategies.base import Setting
from strategies.ranges import Space
from streams.errors import ConfigError, TrainingError

_DIVERGED = f"{TrainingError.__module__}.{TrainingError.__name__}"

Execute = Callable[[list[Job]], Iterable[JobResult]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A setting on one seed whose runs are not read yet."""

    key: str
    information: Information
    strategy: str
    options: dict[str, Any]
    seed: int


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was read of a setting's runs on one seed; no losses where they diverged."""

    losses: tuple[float, ...] | None
    seconds: float
    passes: float


def diverged(error: str) -> bool:
    """Return whether a traceback says that training diverged, which is a result; anything else is to be repaired."""
    return any(line.startswith(_DIVERGED) for line in error.splitlines())


class Tuning:
    """All searches of a study."""

    def __init__(self, study: StudyConfig, cells: Sequence[Cell], root: Path) -> None:
        """Find out what is to be tuned, and refuse what cannot be.

        Args:
            study: with `tune`.
            cells: its runs, as they are written.
            root: folder that run folders are kept in.

        Raises:
            ConfigError: a seed is searched and judged, no run produces the goal, an option refuses its range.
        """
        assert study.tune is not None
        self._study, self._root, self.tune = study, root, study.tune
        config = cells[0].config
        self.strategies = dict(config.strategies)
        _check_seeds(self.tune, study)
        self.spaces = spaces_of(self.tune, self.strategies)
        self._check_grid()
        self.goals = {i: goal_of(self.tune, i, config) for i in self.tune.information}
        taken = [n for n in self.variants() if n in self.strategies]
        if taken:
            raise ConfigError(f"strategies: {taken[0]!r} is what tuning calls its own. Choose another name.")
        spaces = {n: {k: _plain(s) for k, s in space.items()} for n, space in self.spaces.items()}
        goals = {i: [t.model_dump(mode="json") for t in terms] for i, terms in self.goals.items()}
        self.identity = content_hash([self.tune.model_dump(mode="json"), spaces, goals])
        self.notes = Notes(None, "")

    def check(self, setting: Setting) -> None:
        """Build every strategy at the ends of its ranges: some options are refused only for a model or a source.

        Raises:
            ConfigError: one is refused.
        """
        for name, space in self.spaces.items():
            for values in ({k: ends(s)[0] for k, s in space.items()}, {k: ends(s)[-1] for k, s in space.items()}):
                try:
                    make_strategy(with_options(self.strategies[name], values), setting, f"strategies.{name}")
                except ConfigError as error:
                    raise ConfigError(
                        f"tune.ranges.{name}: what is at the end of its ranges is refused. {error} Narrow the range, "
                        f"or set null to leave the option as it is."
                    ) from error

    def open(self, folder: Path, identity: str) -> None:
        """Read what is noted in the study's folder.

        Raises:
            ConfigError: it is that of another study.
        """
        self.notes = Notes(folder / "tuning.json", identity)

    def variants(self) -> list[str]:
        """Return the names of the tuned strategies."""
        return [tuned_name(s, i) for i in self.tune.information for s in self.spaces]

    def with_variants(self, tuned: Sequence[Tuned] | None) -> StudyConfig:
        """Return the study with the tuned strategies beside those that are written, and without `tune`.

        Args:
            tuned: what the searches came to; None has them as they are written.
        """
        chosen = {t.name: t.options for t in tuned or ()}
        variants = {
            tuned_name(s, i): with_options(self.strategies[s], chosen.get(tuned_name(s, i), {}))
            for i in self.tune.information
            for s in self.spaces
        }
        return self._study.model_copy(update={"strategies": self.strategies | variants, "tune": None})

    def cells(self, tuned: Sequence[Tuned] | None) -> list[Cell]:
        """Return the runs of that study; a tuned strategy takes the values of the grid that the written one takes."""
        return lay_out(
            self.with_variants(tuned), {tuned_name(s, i): s for i in self.tune.information for s in self.spaces}
        )

    def tuned(self) -> list[Tuned] | None:
        """Return what all searches came to, or None if some are not at their end."""
        found = [self._stand(strategy, i) for i in self.tune.information for strategy in self.spaces]
        return None if any(wanted for _, wanted in found) else [t for t, _ in found if t is not None]

    def run(
        self,
        execute: Execute,
        begin: Callable[[list[Job]], None] | None = None,
        watch: Callable[[JobResult], None] | None = None,
    ) -> list[JobResult]:
        """Run all trials that are not on disk.

        Args:
            execute: runs jobs, and yields their results as they come in.
            begin: is told of the jobs of every round before they start.
            watch: is told of every result.

        Returns:
            Results of runs that failed for another reason than diverged training: the search waits for them.

        Raises:
            ConfigError: no run produces the goal.
        """
        while True:
            wanted = [w for i in self.tune.information for s in self.spaces for w in self._stand(s, i)[1]]
            if not wanted:
                return []
            jobs = {w.key: self._jobs(w) for w in wanted}
            todo = {j.name: j for own in jobs.values() for j in own if not self._is_over(j)}
            failed = []
            if todo:
                if begin is not None:
                    begin(list(todo.values()))
                for result in execute(list(todo.values())):
                    if result.error and diverged(result.error):
                        self.notes.diverged[result.job.name] = last_line(result.error)
                        self.notes.save()
                    elif result.error:
                        failed.append(result)
                    if watch is not None:
                        watch(result)
            for w in wanted:
                if all(map(self._is_over, jobs[w.key])):
                    self.notes.measured[w.key] = self._measure(w, jobs[w.key])
            self.notes.save()
            if failed:
                return failed

    def num_runs(self) -> int:
        """Return the most runs that the searches can take; pruning and shared settings make it fewer."""
        tune, points = self.tune, math.prod(len(v) for v in self._study.grid.values())
        confirmed = (min(tune.confirm, tune.trials - 1) + 1) * len(tune.seeds.confirm)
        each = tune.trials * len(tune.seeds.search) + confirmed
        return each * points * len(self.spaces) * len(tune.information)

    def num_at_once(self) -> int:
        """Return the most runs that can go on beside each other: one for every trial of a round of every search."""
        points = math.prod(len(v) for v in self._study.grid.values())
        return min(self.tune.at_once, self.tune.trials) * points * len(self.spaces) * len(self.tune.information)

    def samples(self) -> tuple[list[Job], list[Cell]]:
        """Return the runs of the strategies as they are written on the first search seed, to estimate by."""
        seed, information = self.tune.seeds.search[0], self.tune.information[0]
        cells = [c for s in self.spaces for c in self._cells(self._want(s, information, self._written(s), seed))]
        return make_jobs(cells, self._root), cells

    def loss_by_seed(
        self, information: Information, strategy: str, tables: Iterable[tuple[Cell, Mapping[str, Table]]]
    ) -> dict[int, float]:
        """Return the goal of a strategy of the study, summed over its parts, for every seed on which it has lived."""
        by_seed: dict[int, list[Table]] = {}
        for cell, found in tables:
            if strategy in found:
                by_seed.setdefault(cell.seed, []).append(found[strategy])
        points = max(map(len, by_seed.values()), default=0)
        parts = {s: losses(self.goals[information], t) for s, t in by_seed.items() if len(t) == points}
        return {seed: sum(p) for seed, p in sorted(parts.items()) if p is not None}

    def metrics_read(self) -> set[str]:
        """Return the metrics that the goals read."""
        return set[str]().union(*map(metrics_read, self.goals.values()))

    def _check_grid(self) -> None:
        """Refuse a grid that sets what is tuned, by itself or with all of its part: it would undo every setting."""
        for name, space in self.spaces.items():
            for key in space:
                option = f"strategies.{name}.{key}"
                for varied in self._study.grid:
                    if f"{option}.".startswith(f"{varied}.") or varied.startswith(f"{option}."):
                        raise ConfigError(
                            f"tune: {option} is in the grid, too ({varied}). Take it out of there, or say "
                            f"tune.ranges.{name}.{key}: null."
                        )

    def _written(self, strategy: str) -> dict[str, Any]:
        return {key: value_at(self.strategies[strategy], key) for key in self.spaces[strategy]}

    def _stand(self, strategy: str, information: Information) -> tuple[Tuned | None, list[_Wanted]]:
        """Return what a search came to, or what has to be run before it can go on: a replay of all that is noted."""
        tune, trials = self.tune, list[Trial]()
        space, written = self.spaces[strategy], self._written(strategy)
        rounds = self.notes.proposed.setdefault(tuned_name(strategy, information), [])
        while len(trials) < tune.trials and not self._is_spent(trials):
            number = len(trials) // tune.at_once
            if number == len(rounds):
                count = min(tune.at_once, tune.trials - len(trials))
                tried = [Tried(t.options, mean(t.losses) if t.state != "diverged" else None) for t in trials]
                rounds.append(propose(space, written, tried, count, tune.sampler_seed))
            new = [Trial(len(trials) + k, options) for k, options in enumerate(rounds[number])]
            wanted = self._race(strategy, information, trials, new)
            if wanted:
                return None, wanted
            trials += new
        best = ranked([t for t in trials if t.state == "finished"], lambda t: t.losses)[: tune.confirm]
        again = list({t.number: t for t in [*best, trials[0]] if t.state != "diverged"}.values())
        wanted = [w for t in again for w in self._extend(strategy, information, t, tune.seeds.confirm, t.confirmed)]
        if wanted:
            return None, wanted
        return conclude(strategy, information, trials, again, bool(tune.seeds.confirm)), []

    def _race(self, strategy: str, information: Information, before: list[Trial], new: list[Trial]) -> list[_Wanted]:
        """Bring the trials of a round to their end, or return what has to be run for that."""
        for index, seed in enumerate(self.tune.seeds.search):
            running = [t for t in new if t.state == "running"]
            wanted = [w for t in running for w in self._extend(strategy, information, t, (seed,), t.losses)]
            if wanted:
                return wanted
            if index + 1 < len(self.tune.seeds.search):
                prune([*before, *new], index + 1)
        for t in new:
            t.state = "finished" if t.state == "running" else t.state
        return []

    def _extend(
        self, strategy: str, information: Information, trial: Trial, seeds: Sequence[int], into: list[tuple[float, ...]]
    ) -> list[_Wanted]:
        """Add what a trial came to on some seeds, or return which of them have to be run."""
        wanted = [self._want(strategy, information, trial.options, seed) for seed in seeds]
        missing = [w for w in wanted if w.key not in self.notes.measured]
        if missing:
            return missing
        for w in wanted:
            measured = self.notes.measured[w.key]
            trial.seconds, trial.passes = trial.seconds + measured.seconds, trial.passes + measured.passes
            if measured.losses is None:
                trial.state = "diverged"
                return []
            into.append((sum(measured.losses),) if self.tune.choice == "sum" else measured.losses)
        return []

    def _is_spent(self, trials: Sequence[Trial]) -> bool:
        limit = self.tune.seconds
        return limit is not None and bool(trials) and sum(t.seconds for t in trials) >= limit

    def _want(self, strategy: str, information: Information, options: dict[str, Any], seed: int) -> _Wanted:
        key = f"{tuned_name(strategy, information)} {content_hash([options, seed])}"
        return _Wanted(key, information, strategy, options, seed)

    def _jobs(self, wanted: _Wanted) -> list[Job]:
        return make_jobs(self._cells(wanted), self._root)

    def _cells(self, wanted: _Wanted) -> list[Cell]:
        """Return the runs of a setting on one seed, at every point of the grid."""
        name, study = wanted.strategy, self._study

        def concerns(key: str) -> bool:
            return not key.startswith("strategies.") or key.split(".")[1] == name

        read = [term for terms in self.goals.values() for term in terms]
        kinds = {term.model for term in read} - {"run"}
        no_shadows = {} if kinds or any(map(reads_shadows, read)) else {"references.shadows": 0}
        references = {"references.kinds": sorted(kinds)} | no_shadows
        written = {k: v for k, v in study.set.items() if not k.startswith("strategies.")}
        trial = study.model_copy(
            update={
                "strategies": {name: with_options(self.strategies[name], wanted.options)},
                "seeds": (wanted.seed,),
                "set": written | references,
                "grid": {k: v for k, v in study.grid.items() if concerns(k)},
                "tune": None,
            }
        )
        told = {key.rpartition(".")[2]: value for key, value in wanted.options.items()}
        return [replace(c, values=c.values | told) for c in lay_out(trial)]

    def _is_over(self, job: Job) -> bool:
        return job.name in self.notes.diverged or is_done(job)

    def _measure(self, wanted: _Wanted, jobs: Sequence[Job]) -> _Measured:
        terms = self.goals[wanted.information]
        tables, seconds, passes = list[Table](), 0.0, 0.0
        for job in jobs:
            folder = job.folder / "strategies" / wanted.strategy
            rows = folder / "results.jsonl"
            table = Table(read_some(rows, metrics_read(terms) | {"backward"}) if rows.exists() else [])
            served = {r.event for r in table.select("exact")}
            passes += sum(r.value or 0.0 for r in table.select("backward", "event") if r.event in served)
            seconds += sum(_acted(folder / "timings.jsonl"))
            tables.append(table)
        if any(job.name in self.notes.diverged for job in jobs):
            return _Measured(None, seconds, passes)
        parts = losses(terms, tables)
        if parts is None and wanted.options == self._written(wanted.strategy):
            raise ConfigError(f"tune.goal.{wanted.information}: {_why_none(terms, tables, wanted.strategy)}")
        return _Measured(parts, seconds, passes)


class Notes:
    """What is kept of a study's searches in its folder, beside the runs themselves.

    Attributes:
        proposed: the rounds of every search.
        measured: what was read of runs.
        diverged: what was said of runs that diverged, by the name of their folder.
    """

    def __init__(self, file: Path | None, identity: str) -> None:
        """Read the file, if there is one.

        Raises:
            ConfigError: it is that of another study.
        """
        self._file, self._identity = file, identity
        data = (
            read_json(file, "Delete it; what it holds is found again from the runs.") if file and file.exists() else {}
        )
        if data and data.get("study") != identity:
            raise ConfigError(
                f"{file} holds the tuning of another study ({data.get('study')}, this one is {identity}). Delete the "
                f"file, or keep the studies in different folders (--runs)."
            )
        self.proposed: dict[str, list[list[dict[str, Any]]]] = data.get("proposed", {})
        self.measured = {
            key: _Measured(None if m["losses"] is None else tuple(m["losses"]), m["seconds"], m["passes"])
            for key, m in data.get("measured", {}).items()
        }
        self.diverged: dict[str, str] = data.get("diverged", {})

    def save(self) -> None:
        """Write the file."""
        assert self._file is not None
        data = {
            "study": self._identity,
            "proposed": self.proposed,
            "measured": {key: asdict(m) for key, m in self.measured.items()},
            "diverged": self.diverged,
        }
        write_atomically(self._file, with_digest(data))


def _plain(space: Space) -> Any:
    return list(space) if isinstance(space, tuple) else space.model_dump()


def _acted(file: Path) -> Iterator[float]:
    """Yield the seconds that each event took, without evaluation."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        yield float(json.loads(line)["act_s"])


def _check_seeds(tune: Tune, study: StudyConfig) -> None:
    judged = set(all_seeds(study.seeds))
    for name, seeds in (("search", tune.seeds.search), ("confirm", tune.seeds.confirm)):
        if both := sorted(judged & set(seeds)):
            raise ConfigError(
                f"tune.seeds.{name}: {both} are seeds that the study is judged on, too. What was tuned on a seed would "
                f"be judged by its luck there: choose others."
            )


def _why_none(terms: Sequence[Term], tables: Sequence[Table], strategy: str) -> str:
    for term in terms:
        if losses((term,), list(tables)) is None:
            rows = [r for t in tables for r in t.select(term.metric, model=term.model)]
            subjects = sorted({r.subject for r in rows})
            reasons = [r.reason for r in rows if r.reason]
            why = f" It is there for: {', '.join(subjects[:6])}." if subjects else ""
            told = f" {reasons[-1]}." if reasons else ""
            return f"no run of {strategy!r} has a value of {term.metric} ({term.model}) of {term.subject}.{why}{told}"
    raise AssertionError("every part has a value")
