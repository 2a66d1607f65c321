"""Run jobs on this machine: one process per core, one torch thread each."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait

from lifelong.study.cohorts import cohorts, execute_together
from lifelong.study.forkserver import start_forkserver
from lifelong.study.jobs import Job, JobResult

_TERMINATE_S = 25.0  # to end a step and to keep where training stands; job schedulers give 30 in all


def num_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as ``$CUDA_VISIBLE_DEVICES`` takes them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def run_local(jobs: Sequence[Job], workers: int | None = None, attempts: int = 2) -> Iterator[JobResult]:
    """Yield the result of every job as it comes in.

    Jobs that differ in the seed alone run side by side in one worker, as a cohort. A worker that dies takes only its
    own jobs along; each goes on from its last checkpoint in a worker of its own. Where jobs ask for a GPU and there
    are several, workers take one each in turn; their jobs know it as ``cuda``.

    Args:
        jobs: what to run.
        workers: processes; None takes one per core.
        attempts: how often a job is started whose worker dies (killed, out of memory).
    """
    workers = workers or num_cores()
    waiting = deque((cohort, attempts) for cohort in cohorts(jobs, workers))
    gpus = visible_gpus() if any(job.config.get("device") == "cuda" for job in jobs) else []
    shares = itertools.cycle([{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}])
    idle: list[_Worker] = []
    busy: dict[_Worker, tuple[tuple[Job, ...], int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(next(shares))
                busy[worker] = waiting.popleft()
                worker.give(busy[worker][0])
            ready = wait([worker.pipe for worker in busy])
            for worker in [w for w in busy if w.pipe in ready]:
                cohort, attempts_left = busy.pop(worker)
                results = worker.take()
                if results is not None:
                    idle.append(worker)
                    yield from results
                    continue
                how = worker.stop()
                if attempts_left > 1:  # by itself each, since one of them may be what kills its worker
                    waiting.extendleft(((job,), attempts_left - 1) for job in reversed(cohort))
                else:
                    died = f"Its worker process died {attempts} times, the last time {how}."
                    yield from (JobResult(job, 0.0, died) for job in cohort)
    finally:
        for worker in [*idle, *busy]:
            worker.ask()
        for worker in [*idle, *busy]:
            worker.stop()


class _Worker:
    """A process that runs one cohort after another."""

    def __init__(self, share: Mapping[str, str]) -> None:
        context = start_forkserver()
        self.pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe, {**os.environ, **share}), daemon=True)
        self._process.start()
        child_pipe.close()

    def give(self, cohort: tuple[Job, ...]) -> None:
        """Hand over a cohort; if the process is dead, `take` will tell."""
        with contextlib.suppress(OSError):
            self.pipe.send(cohort)

    def take(self) -> list[JobResult] | None:
        """Return what came of its jobs, or None if the process is dead."""
        try:
            results: list[JobResult] = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return results

    def ask(self) -> None:
        """Ask the process to end."""
        if self._process.is_alive():
            self._process.terminate()

    def stop(self) -> str:
        """End the process, and say how it ended."""
        self.pipe.close()
        self._process.join(0.05)  # one that is dying anyway tells how
        self.ask()
        self._process.join(_TERMINATE_S)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        return f"by signal {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"with exit code {code}"


def _serve(pipe: Connection, environment: dict[str, str]) -> None:
    """Run jobs until there are no more; end with the process that hands them out."""
    from lifelong.processes.stopping import stop

    os.environ |= environment | {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which then ends its workers
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # the study was stopped; what is written is kept
        while True:
            cohort: tuple[Job, ...] = pipe.recv()
            pipe.send(execute_together(cohort))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends; what trackers still have to write is not cut off


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
