"""Jobs: the pieces a study is cut into, and what comes back from each."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifelong.config import RunConfig, content_hash
from lifelong.files import code_version
from lifelong.study.config import Cell, learner_groups
from streams.config import parse
from streams.errors import LifelongError


@dataclass(frozen=True, slots=True)
class Job:
    """A run of those strategies of one cell that share references; nothing else needs to know of it to run.

    Attributes:
        cell: index of the cell.
        label: what people read.
        config: the run configuration as plain data.
        root: folder that run folders are kept in.
    """

    cell: int
    label: str
    config: dict[str, Any]
    root: str

    @property
    def folder(self) -> Path:
        """The run folder it will write."""
        config = parse(RunConfig, self.config)
        return Path(self.root) / f"{config.name}-{content_hash([config.resolved(), code_version()])}"


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job.

    Attributes:
        job: the job.
        seconds: wall time.
        error: traceback of what went wrong, or None.
        files: contents of the run folder by relative path, when the worker's disk is not ours.
    """

    job: Job
    seconds: float
    error: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def make_jobs(cells: list[Cell], root: Path) -> list[Job]:
    """Cut every cell into jobs."""
    jobs = []
    for index, cell in enumerate(cells):
        for group in learner_groups(cell.config.strategies):
            data = cell.config.model_dump(mode="json", exclude_unset=True)
            data["strategies"] = {name: data["strategies"][name] for name in group}
            point = ", ".join(f"{k}={v}" for k, v in (cell.values | {"seed": cell.seed}).items())
            jobs.append(Job(index, f"{' + '.join(group)} ({point})", data, str(root)))
    return jobs


def execute(job: Job) -> JobResult:
    """Run a job in this process; a failure is a result, not an exception."""
    from lifelong.runner import run

    started = time.perf_counter()
    try:
        run(parse(RunConfig, job.config), job.root)
    except LifelongError as error:
        return JobResult(job, time.perf_counter() - started, f"{type(error).__name__}: {error}")
    except Exception:  # whatever it was: the other jobs go on, and the study shows this one's traceback
        return JobResult(job, time.perf_counter() - started, traceback.format_exc())
    return JobResult(job, time.perf_counter() - started)


def is_done(job: Job) -> bool:
    """Whether every strategy of the job has lived to its end in an earlier attempt."""
    return all((job.folder / "strategies" / name / "done.json").exists() for name in job.config["strategies"])
