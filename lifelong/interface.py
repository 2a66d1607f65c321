"""What scripts and notebooks use: runs by name or dict, with progress, as frames, tables and figures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from lifelong.config.run import RunConfig, load_config
from lifelong.execution import runner, stepping
from lifelong.execution.stepping import Moment
from lifelong.report import tables
from lifelong.report.advice import advice
from lifelong.report.aligned import aligned
from lifelong.report.columns import Column, columns
from lifelong.report.facts import gather
from lifelong.report.gathering import gather_lives
from lifelong.report.html import run_drawings, write_report
from lifelong.report.study import write_study_report
from lifelong.report.study_drawings import study_drawings
from lifelong.report.summary import Group, measure_of, summarize
from lifelong.report.text import grids, legend
from lifelong.study import study as studies
from lifelong.trackers._base import Tracker
from lifelong.trackers.console import ConsoleTracker
from streams.errors import ConfigError, closest

What = RunConfig | str | Path | Mapping[str, Any]
"""A configuration: as `load_config` returns it, the name of a ready scenario, a YAML file, or what one would hold."""
Library = Literal["pandas", "polars"]


@dataclass(frozen=True, slots=True, eq=False)
class Run(runner.Run):
    """A run on disk, to be looked at.

    Attributes:
        folder: the run folder.
        config: its configuration.
        tables: rows by strategy.
        summaries: access, cost of references and seconds by strategy, of those that are done.
    """

    def frame(self, library: Library = "pandas") -> Any:
        """Return all rows of all strategies as a data frame: strategy, event, model, subject, metric, value, n, reason.

        Raises:
            ConfigError: pandas or polars is not installed.
        """
        by_column: dict[str, list[object]] = {"strategy": []}
        for name, table in self.tables.items():
            by_column["strategy"] += [name] * len(table.rows)
            for key, column in table.frame().items():
                by_column.setdefault(key, []).extend(column)
        return _frame(by_column, library)

    def summary(self) -> Summary:
        """Return the table that the command line prints; `print` it, or let a notebook show it."""
        heads = columns(measure_of(self))
        return Summary(tuple(summarize(self)), heads, tuple(advice(self)), tables.summary(gather(self)))

    def figure(self, name: str) -> Any:
        """Return a plotly figure of the report: ``requests``, ``average``, ``costs``, ``matrix-STRATEGY`` and others.

        Raises:
            ConfigError: there is none of that name; those that there are, are listed.
        """
        return _figure(name, run_drawings(gather(self)))

    def report(self, file: Path | str | None = None) -> Path:
        """Write the report and return where it is; ``report.html`` in the run folder by default."""
        return write_report(self, None if file is None else Path(file))

    def __repr__(self) -> str:
        """Return what it is, in a line."""
        state = "finished" if self.done else "not finished"
        return f"<run {self.config.name}: {', '.join(self.tables)}; {state}; {self.folder}>"

    def _repr_html_(self) -> str:
        """Return its results, as a notebook shows them."""
        return f"<p>{escape(repr(self)[1:-1])}</p>{self.summary()._repr_html_()}"


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of a run in a table for each access.

    Attributes:
        groups: strategies with their numbers, by what they were allowed to read.
        heads: what the numbers are.
        advice: what should be known before they are believed.
    """

    groups: tuple[Group, ...]
    heads: tuple[Column, ...]
    advice: tuple[str, ...]
    _html: str

    def __str__(self) -> str:
        """Return it as text, with a legend."""
        parts = [aligned(g.heads, g.rows, g.title, numbers=True) for g in grids(self.groups, self.heads)]
        return "\n\n".join([*parts, "\n".join([*legend(self.groups, self.heads), *self.advice])])

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it."""
        return self._html + "".join(f"<p>{escape(said)}</p>" for said in self.advice)


class Study(studies.Study):
    """A study and its folder on disk, to be looked at."""

    def figure(self, name: str) -> Any:
        """Return a plotly figure of the study's report.

        Raises:
            ConfigError: there is none of that name; those that there are, are listed.
        """
        return _figure(name, study_drawings(gather_lives(self)))

    def report(self, file: Path | str | None = None) -> Path:
        """Write the report and return where it is; ``report.html`` in the study folder by default."""
        return write_study_report(self, None if file is None else Path(file))

    def __repr__(self) -> str:
        """Return what it is, in a line."""
        done = len(self.jobs) - len(self.pending)
        return f"<study {self.config.name}: {done} of {len(self.jobs)} runs are finished; {self.folder}>"

    def _repr_html_(self) -> str:
        """Return claim and verdicts, as a notebook shows them."""
        return f"<p>{escape(repr(self)[1:-1])}</p><p>{escape(self.config.claim)}</p>" + _verdicts(self)


def run(
    what: What,
    root: Path | str = "runs",
    trackers: Sequence[Tracker] = (),
    fresh: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> Run:
    """Play a stream to every strategy; go on where an earlier attempt stopped.

    Args:
        what: a ready scenario, a YAML file, what one would hold, or a `RunConfig`. In a dict a class of a notebook may
            stand where a name could: ``{"learner": "replay", "unlearner": {"name": MyUnlearner, "lr": 0.1}}``.
        root: where run folders are kept. The folder's name is the configuration's, with a hash of configuration and
            code, so that the same run finds itself again and a finished one computes nothing. A strategy that another
            run there has lived through the same stream is taken over.
        trackers: told about everything that happens.
        fresh: delete what an earlier attempt left, and take over nothing.
        workers: processes that may live references beside each other; each takes as much memory as the run.
        progress: show on standard error how far it is.

    Raises:
        LifelongError: bad input, a corrupt folder, diverged training. What was done so far stays on disk.
    """
    config = what if isinstance(what, RunConfig) else load_config(what)
    shown = [*trackers, *([ConsoleTracker()] if progress else [])]
    return _shown(runner.run(config, root, shown, fresh, workers))


def resume(
    folder: Path | str,
    trackers: Sequence[Tracker] = (),
    trust: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> Run:
    """Go on with the run in `folder`; see `run`.

    Args:
        folder: of the run.
        trackers, workers, progress: as in `run`.
        trust: whether files that the folder names may run although they have not been run on this machine before.

    Raises:
        CheckpointError: there is no run, or it was made by another version of the code or other data.
        TrustError: it names files that may not run.
    """
    shown = [*trackers, *([ConsoleTracker()] if progress else [])]
    return _shown(runner.resume(folder, shown, trust, workers))


def load_run(folder: Path | str) -> Run:
    """Read a run folder, finished or not.

    Raises:
        CheckpointError: it is not a run folder, or its configuration, its stream or a file of a strategy that is done
            was cut or edited.
    """
    return _shown(runner.load_run(folder))


def live(what: What, strategy: str | None = None) -> Iterator[Moment]:
    """Let one strategy live through its stream, and yield after every event; nothing is written.

    Args:
        what: as in `run`.
        strategy: its name; the first of the configuration if none is given.

    Raises:
        ConfigError: there is no such strategy, or the configuration is not valid.
    """
    return stepping.live(what if isinstance(what, RunConfig) else load_config(what), strategy)


def _shown(run: runner.Run) -> Run:
    return Run(run.folder, run.config, run.tables, run.summaries)


def _figure(name: str, drawings: Iterator[tuple[str, Any]]) -> Any:
    names = []
    for other, figure in drawings:
        if other == name:
            return figure
        names.append(other)
    raise ConfigError(f"There is no figure {name!r}. {closest(name, names)}")


def _frame(by_column: dict[str, list[object]], library: Library) -> Any:
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(f"A data frame needs {library}: pip install {library}.") from error
    return module.DataFrame(by_column)


def _verdicts(study: studies.Study) -> str:
    outcome = study.outcome()
    rows = "".join(
        f"<tr><td>{escape(v['outcome'])}</td><td>{escape(v['name'])}</td><td>{escape(v['bar'])}</td></tr>"
        for v in (*outcome["validity"], *outcome["verdicts"])
    )
    return f"<table><tr><th>verdict</th><th>criterion</th><th>what</th></tr>{rows}</table>" if rows else ""
