"""Cohorts: jobs that differ in nothing but their seed run side by side in one process.

Each keeps its own folder, rows, checkpoints and identity, and fails alone; what they train at the same moment is
trained at once (`strategies.parts.together`). Not a bit of a run depends on whether it is one of a cohort, so that a
study goes on in any other cohorts, or without.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from lifelong.config.run import RunConfig
from lifelong.processes.settings import torch_settings
from lifelong.setup.build import sources_kept
from lifelong.study.jobs import Job, JobResult, execute
from lifelong.trackers._base import Tracker
from strategies.parts.together import together
from streams.config import parse

MOST = 32
"""Jobs of a cohort; more of them make a step hardly cheaper, and take memory."""


def cohorts(jobs: Sequence[Job], workers: int) -> list[tuple[Job, ...]]:
    """Put jobs into cohorts, so many that every worker has one; a job that gains nothing from company is alone.

    >>> from dataclasses import replace
    >>> one = Job(0, "a", {}, "runs", "a", "code", cohort="c")
    >>> jobs = [replace(one, name=n) for n in "abcde"] + [replace(one, name="f", cohort=None)]
    >>> [[job.name for job in cohort] for cohort in cohorts(jobs, 3)]
    [['a', 'b', 'c'], ['d', 'e'], ['f']]
    """
    alike: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        is_tracked = job.group is not None or job.trackers  # trackers have one run in a process at a time
        is_alone = job.cohort is None or is_tracked
        alike.setdefault(("alone", job.name) if is_alone else ("cohort", str(job.cohort)), []).append(job)
    each = math.ceil(workers / len(alike)) if alike else 1
    parts = []
    for group in alike.values():
        size = min(MOST, math.ceil(len(group) / each))
        parts += [tuple(group[start : start + size]) for start in range(0, len(group), size)]
    return parts


def _none(job: Job) -> tuple[Tracker, ...]:
    return ()


def execute_together(cohort: Sequence[Job], trackers: Callable[[Job], Sequence[Tracker]] = _none) -> list[JobResult]:
    """Run the jobs of a cohort side by side in this process; a failure is a result, and the others go on.

    Args:
        cohort: of `cohorts`.
        trackers: gives those of a job.
    """
    if len(cohort) == 1:
        return [execute(cohort[0], trackers(cohort[0]))]
    settings = torch_settings(parse(RunConfig, cohort[0].config))  # those of the process are the same for all
    with settings, sources_kept():
        return together([functools.partial(execute, job, trackers(job)) for job in cohort])
