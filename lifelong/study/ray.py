"""Run jobs on a Ray cluster: Ray places them, retries lost workers, and streams results back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

from typing_extensions import override

from lifelong.files import cache_folder, write_atomically
from lifelong.results.table import Row
from lifelong.study.cohorts import cohorts, execute_together
from lifelong.study.jobs import Job, JobResult
from lifelong.trackers._base import RunInfo, Tracker
from streams.errors import ConfigError

_PASSED_ON = (
    "LIFELONG_CACHE",
    "WANDB_MODE",
    "WANDB_BASE_URL",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "WANDB_TAGS",
    "WANDB_NOTES",
    "CUBLAS_WORKSPACE_CONFIG",
)
_CONNECT_S, _ANSWER_S = 5.0, 30.0
_LOOK_EVERY_S = 2.0
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
_PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='INFO'); ray.shutdown()"


def run_ray(
    jobs: Sequence[Job],
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    memory: float = 0.0,
    retries: int = 3,
    told: Callable[[str, int, int], None] | None = None,
) -> Iterator[JobResult]:
    """Yield the result of every job as it comes in.

    Jobs that differ in the seed alone are one job to Ray, a cohort. They end with the process that calls this, whatever
    ends it. What is tried again on the same disk goes on from its last checkpoints. Where workers have a disk of their
    own, results come back as file contents and are written here. References are shared between workers that
    see the same ``$LIFELONG_CACHE``.

    Args:
        jobs: what to run.
        address: of a running cluster; None takes ``$RAY_ADDRESS``, or else starts one on this machine.
        cpus, gpus: resources of one cohort (fractions share a GPU).
        memory: GB of memory that Ray sets aside for one cohort on its node; 0 lets it not count.
        retries: how often a cohort is started again whose worker or node was lost.
        told: is told how far a job is: the name of its run folder, events lived in all strategies, and events of one.

    Raises:
        ConfigError: Ray is not installed, or nobody answers at the address.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--on ray needs Ray: pip install 'lifelong-simulator[ray]'.") from error
    address = address or os.environ.get("RAY_ADDRESS")
    token = Path(jobs[0].root) / f".driver-{uuid.uuid4().hex}"
    write_atomically(token, b"")
    try:
        with _cluster(ray, address):
            share: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus} | (
                {"memory": int(memory * 1e9)} if memory else {}
            )
            remote = ray.remote(**share, max_retries=retries, retry_exceptions=False)(_run_on_worker)
            board: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
            slots = max(1, int(ray.cluster_resources().get("CPU", 1.0) / max(cpus, 1e-3)))
            running: dict[Any, tuple[Job, ...]] = {
                remote.remote(cohort, str(token), board): cohort for cohort in cohorts(jobs, slots)
            }
            while running:
                done, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY_S)
                if told is not None:
                    with contextlib.suppress(ray.exceptions.RayError):
                        for name, (lived, events) in ray.get(board.read.remote(), timeout=_LOOK_EVERY_S).items():
                            told(name, lived, events)
                if not done:
                    continue
                cohort = running.pop(done[0])
                try:
                    results: list[JobResult] = ray.get(done[0])
                except ray.exceptions.RayError as error:
                    lost = f"Ray lost the worker each time the job was tried: {error}"
                    results = [JobResult(job, 0.0, lost) for job in cohort]
                for job, result in zip(cohort, results, strict=True):
                    _write_files(job, result.files)
                    yield replace(result, job=job, files={})
    finally:
        token.unlink(missing_ok=True)


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to the cluster, or start one; a connection that is there already is used and left alone."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    temporary = None
    if address in {None, "local"}:
        temporary = tempfile.mkdtemp(prefix="ray-")  # short: the paths of sockets may not be long
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": temporary}
    else:
        _check(str(address))
        options["address"] = address
    try:
        try:
            ray.init(**options, runtime_env={"env_vars": _environment()})
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            problem = "Ray cannot be started here" if temporary else f"--address {address}: no Ray cluster answers"
            raise ConfigError(f"{problem}: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check(address: str) -> None:
    """Find out whether a cluster answers, in a process of its own: Ray itself would wait for minutes, and then exit.

    Raises:
        ConfigError: it does not.
    """
    remedy = "Start one with 'ray start --head', or leave --address out to start one for this study."
    url = urlsplit(address if "://" in address else f"gcs://{address}")
    if address != "auto":
        try:
            host, port = url.hostname, url.port or (10001 if url.scheme == "ray" else None)
        except ValueError:
            host = port = None
        if not host or port is None:
            raise ConfigError(f"--address {address!r} must look like 10.0.0.1:6379, ray://10.0.0.1:10001, or auto.")
        try:
            socket.create_connection((host, port), _CONNECT_S).close()
        except OSError as error:
            raise ConfigError(f"--address {address}: nobody answers there ({error}). {remedy}") from error
    probe = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
        problem = (done.stderr.strip().splitlines() or ["it exited"])[-1] if done.returncode else None
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        problem = f"what is there did not answer as Ray within {_ANSWER_S:.0f} s; Ray says: "
        problem += " | ".join(said[-3:]) if said else "nothing"
    if problem is not None:
        raise ConfigError(f"--address {address}: no Ray cluster answers there ({problem}). {remedy}")


def _environment() -> dict[str, str]:
    """Return what workers need to know: where this code is, if it was not installed, and where caches are."""
    environment = _QUIET | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    home = Path(__file__).parents[2]
    if home.name not in {"site-packages", "dist-packages"}:
        inherited = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(home), *([inherited] if inherited else [])])
    return environment


@final
class _Board:
    """Where jobs write down how far they are. It is gone when the driver is, which tells them that nobody waits."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, int]] = {}

    def write(self, name: str, lived: int, events: int) -> None:
        """Take note of a job."""
        self._told[name] = lived, events

    def read(self) -> dict[str, tuple[int, int]]:
        """Return how far all jobs are: events lived, and events of one strategy."""
        return self._told


@final
class _Reporter(Tracker):
    """Writes on the board how far a job is (a `Tracker`)."""

    def __init__(self, job: Job, board: Any) -> None:
        self._job, self._board = job, board
        self._before = self._events = 0

    @override
    def begin(self, info: RunInfo, first_event: int) -> None:
        """Count on from the strategies before this one, which have lived to their end."""
        self._events = len(info.stream.events)
        self._before = list(self._job.config["strategies"]).index(info.strategy) * self._events
        self._write(first_event)

    @override
    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        self._write(index + 1)

    def _write(self, lived: int) -> None:
        self._board.write.remote(self._job.name, self._before + lived, self._events)


@contextlib.contextmanager
def _ends_with(board: Any) -> Iterator[None]:
    """Stop this process as by SIGTERM when the driver is gone, and with it the board."""
    import ray

    from lifelong.processes.stopping import stopping

    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY_S):
            try:
                ray.get(board.read.remote(), timeout=60)
            except ray.exceptions.ActorDiedError:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except ray.exceptions.RayError:  # it moves to another node, or the network is slow
                continue

    with stopping():
        threading.Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            over.set()


def _run_on_worker(cohort: tuple[Job, ...], token: str, board: Any) -> list[JobResult]:
    """Run a cohort on a worker, for as long as the driver is there; bring back what it wrote to a disk of its own."""
    try:
        with _ends_with(board):
            return _run_here(cohort, token, board)
    except KeyboardInterrupt:
        os._exit(1)  # where the node was stopped and not the driver, Ray starts the jobs again on another


def _run_here(cohort: tuple[Job, ...], token: str, board: Any) -> list[JobResult]:
    def reporters(job: Job) -> list[Tracker]:
        return [_Reporter(job, board)]

    if Path(token).exists():
        return execute_together(cohort, reporters)
    root = cache_folder() / "studies" / Path(cohort[0].root).name
    results = execute_together([replace(job, root=str(root)) for job in cohort], reporters)
    return [replace(result, files=_files_of(result.job.folder)) for result in results]


def _files_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in _left_by(folder)}


def _left_by(folder: Path) -> list[Path]:
    """Return the files of a run that make it whole elsewhere: all but locks and what newer checkpoints replace."""
    newest = {max(life.glob("event-*.pt"), default=None) for life in folder.glob("strategies/*/checkpoints")}
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name[0] != "." and (file.parent.name != "checkpoints" or file in newest)
    ]


def _write_files(job: Job, files: dict[str, bytes]) -> None:
    """Write the worker's files here; what says that a strategy is done comes last."""
    for name in sorted(files, key=lambda n: n.endswith("done.json")):
        write_atomically(job.folder / name, files[name])
