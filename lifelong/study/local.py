"""Run jobs on this machine: one process per core, one torch thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from lifelong.study.jobs import Job, JobResult, execute


def num_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))


def run_local(jobs: list[Job], workers: int | None = None, attempts: int = 2) -> Iterator[JobResult]:
    """Yield the result of every job as it comes in.

    Args:
        jobs: what to run.
        workers: processes; None takes one per core.
        attempts: how often a job is started whose worker process dies (killed, out of memory).
    """
    left = dict.fromkeys(range(len(jobs)), attempts)
    while left:
        lost: set[int] = set()
        with ProcessPoolExecutor(workers or num_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
            running: dict[Future[JobResult], int] = {pool.submit(execute, jobs[n]): n for n in left}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost.add(number)
                        continue
                    del left[number]
                    yield result
        for number in lost:
            left[number] -= 1
            if not left[number]:
                del left[number]
                yield JobResult(
                    jobs[number], 0.0, "The worker process died (killed, or out of memory) each time the job was tried."
                )
