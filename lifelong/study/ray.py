"""Run jobs on a Ray cluster: Ray places them, retries lost workers, and streams results back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lifelong.study.jobs import Job, JobResult, execute
from streams.errors import ConfigError

# What a run leaves that is needed elsewhere; checkpoints stay where they were written.
_RESULTS = ("config.yaml", "manifest.json", "stream.json", "done.json", "results.jsonl", "timings.jsonl", "scores.bin")


def run_ray(
    jobs: list[Job], address: str | None = None, cpus: float = 1.0, gpus: float = 0.0, retries: int = 3
) -> Iterator[JobResult]:
    """Yield the result of every job as it comes in.

    A job that is tried again on the same disk goes on from its last checkpoint. Where workers have a disk of their
    own, results come back as file contents and are written here. References are shared between workers that see the
    same ``$LIFELONG_CACHE``.

    Args:
        jobs: what to run.
        address: of a running cluster; None starts one on this machine.
        cpus, gpus: resources of one job (fractions share a GPU).
        retries: how often a job is started again whose worker or node was lost.

    Raises:
        ConfigError: Ray is not installed, or nobody answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--on ray needs Ray: pip install 'lifelong-simulator[ray]'.") from error
    started_here = not ray.is_initialized()
    if started_here:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--address {address}: no Ray cluster answers there ({error}).") from error
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=False)(_execute_there)
        environment = {k: os.environ[k] for k in ("LIFELONG_CACHE",) if k in os.environ}
        running: dict[Any, Job] = {remote.remote(job, environment): job for job in jobs}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done[0])
            try:
                result: JobResult = ray.get(done[0])
            except ray.exceptions.RayError as error:
                result = JobResult(job, 0.0, f"The worker was lost each time the job was tried: {error}")
            _write_missing(result)
            yield result
    finally:
        if started_here:
            ray.shutdown()


def _execute_there(job: Job, environment: dict[str, str]) -> JobResult:
    """Run a job on a worker and bring back what it wrote."""
    os.environ.update(environment)
    result = execute(job)
    folder = job.folder
    files = {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name in _RESULTS
    }
    return JobResult(job, result.seconds, result.error, files)


def _write_missing(result: JobResult) -> None:
    """Write the worker's files here, unless it wrote to this disk itself."""
    folder = result.job.folder
    for name, content in result.files.items():
        file = Path(folder, name)
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
