"""Jobs: the pieces a study is cut into, and what comes back from each."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lifelong.config.run import RunConfig, content_hash
from lifelong.files import code_of, code_version, names_in
from lifelong.study.config import Cell, learner_groups
from lifelong.trackers._base import Tracker, load_tracker
from streams.config import parse
from streams.errors import BusyError, LifelongError
from streams.registry import load, others_code

# A worker that is taken for dead may need that long to notice it and to let go of its run folder.
_PATIENCE_S, _LOOK_AGAIN_S = 60.0, 0.2
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Job:
    """A run of those strategies of one cell that share a learner; nothing else needs to know of it to run.

    Attributes:
        cell: index of the cell.
        label: what people read.
        config: the run configuration as plain data.
        root: folder that run folders are kept in.
        name: of its run folder.
        code: version of the code that it is for.
        group: group in W&B, or None if nothing is sent there.
        point: grid values and seed, as people read them.
        cohort: what it shares with the jobs that it may run side by side with, or None.
        trackers: names or files of those that are told of it.
    """

    cell: int
    label: str
    config: dict[str, Any]
    root: str
    name: str
    code: str
    group: str | None = None
    point: str = ""
    cohort: str | None = None
    trackers: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder it writes."""
        return Path(self.root) / self.name


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


def make_jobs(cells: Sequence[Cell], root: Path) -> list[Job]:
    """Cut every cell into jobs."""
    jobs = []
    names = _readable(cells)
    for index, cell in enumerate(cells):
        point = ", ".join([*names[index], f"seed={cell.seed}"])
        data = cell.config.model_dump(mode="json", exclude_unset=True)
        for group in learner_groups(cell.resolved["strategies"]):
            job_data = data | {"strategies": {name: data["strategies"][name] for name in group}}
            resolved = cell.resolved | {"strategies": {name: cell.resolved["strategies"][name] for name in group}}
            folder = folder_name(cell.config.name, resolved)
            label = f"{together(group)} ({point})"
            job = Job(index, label, job_data, str(root), folder, code_version(), point=point)
            jobs.append(replace(job, cohort=cohort_of(resolved)))
    return jobs


def folder_name(name: str, resolved: dict[str, Any]) -> str:
    """Return what the folder of a run is called: see `Prepared.folder`, for which it need not be prepared here."""
    return f"{name}-{content_hash([resolved, code_of(resolved)])}"


def together(strategies: Sequence[str]) -> str:
    """Return names of strategies as people read them.

    >>> together(["a", "b", "c"]), together(["a", "b", "c", "d", "e"])
    ('a + b + c', 'a + b + 3 more')
    """
    few = strategies if len(strategies) <= _MOST_NAMED else strategies[: _MOST_NAMED - 1]
    more = [f"{len(strategies) - len(few)} more"] if len(few) < len(strategies) else []
    return " + ".join([*few, *more])


def cohort_of(resolved: dict[str, Any]) -> str | None:
    """Return what a resolved run shares with those that differ in the seed; None if it gains nothing from company.

    Only small models on the CPU gain, whose steps are taken at once. Code of the user's may keep things in its module,
    and has its process to itself.
    """
    stacks = vars(load("models", resolved["model"]["name"])).get("STACKS", False)
    if not stacks or resolved["device"] != "cpu" or resolved["threads"] != 1 or others_code(names_in(resolved)):
        return None
    return content_hash({key: value for key, value in resolved.items() if key != "seed"})


def _readable(cells: Sequence[Cell]) -> list[list[str]]:
    """Return the grid values of every cell as text; what has a name is called by it where that is unambiguous."""
    values: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for key, value in cell.values.items():
            values.setdefault(key, {})[_plain(value)] = value
    short: dict[str, dict[str, str]] = {}
    for key, by_text in values.items():
        named = [v["name"] if isinstance(v, dict) and "name" in v else text for text, v in by_text.items()]
        short[key] = dict(zip(by_text, named if len(set(named)) == len(named) else by_text, strict=True))
    return [[f"{k}={short[k][_plain(v)]}" for k, v in cell.values.items()] for cell in cells]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def execute(job: Job, trackers: Sequence[Tracker] = ()) -> JobResult:
    """Run a job in this process; a failure is a result, not an exception."""
    from strategies.parts.training.timing import now

    started = now()
    try:
        _run(job, trackers)
    except Exception:  # whatever it was: the other jobs go on, and the study shows this one's traceback
        return JobResult(job, now() - started, traceback.format_exc())
    return JobResult(job, now() - started)


def _run(job: Job, watching: Sequence[Tracker]) -> None:
    from lifelong.execution.runner import run
    from strategies.parts.together import give_way

    if job.code != code_version():
        raise LifelongError(
            f"The code here ({Path(__file__).parents[2]}) has version {code_version()}, the study was laid out by "
            f"{job.code}. Install the same version everywhere."
        )
    trackers = [*watching, *map(load_tracker, job.trackers)]
    if job.group is not None:
        from lifelong.trackers.wandb import WandbTracker

        trackers.append(WandbTracker(group=job.group, point=job.point))
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            run(parse(RunConfig, job.config), job.root, trackers)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            if not give_way():
                time.sleep(_LOOK_AGAIN_S)
        else:
            return


def is_done(job: Job) -> bool:
    """Whether every strategy of the job has lived to its end in an earlier attempt."""
    return all((job.folder / "strategies" / name / "done.json").exists() for name in job.config["strategies"])
