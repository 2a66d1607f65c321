"""Where runs are computed: in processes of this machine, or on Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lifelong.study.jobs import Job, JobResult
from lifelong.study.local import run_local


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs are computed.

    Attributes:
        on: a pool of processes here, or Ray.
        workers: processes for local; None takes one per core.
        address: of a Ray cluster; None starts a local one.
        cpus, gpus, memory: resources of one job on Ray; memory in GB.
    """

    on: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    memory: float = 0.0

    def run(self, jobs: Sequence[Job], told: Callable[[str, int, int], None] | None = None) -> Iterator[JobResult]:
        """Yield the result of every job as it comes in.

        Args:
            jobs: what to run.
            told: is told how far a job on Ray is, see `run_ray`; of those here the run folders say it.

        Raises:
            ConfigError: a cluster does not answer.
        """
        if self.on == "ray":
            from lifelong.study.ray import run_ray

            return run_ray(jobs, self.address, self.cpus, self.gpus, self.memory, told=told)
        return run_local(jobs, self.workers)
