"""Studies on Ray: a real cluster of two nodes on this machine, one of which is lost on the way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.bench.participants import admit, chosen
from lifelong.bench.running import Watching, submit
from lifelong.bench.track import read_track
from lifelong.execution.process import lock
from lifelong.results.integrity import check_finished
from lifelong.results.table import read_rows
from lifelong.study import ray as on_ray
from lifelong.study.jobs import Job
from lifelong.study.place import Place
from lifelong.study.study import Study
from lifelong.verification.certificate import verify
from streams.errors import BusyError, ConfigError

ray = pytest.importorskip("ray")

MEMORY = 80 * 2**20
TINY: dict[str, Any] = {
    "name": "spread",
    "claim": "it does not matter where a run is computed",
    "base": {
        "source": "digits",
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "explicit", "requests": [{"after": 3, "scope": "class", "keys": [1]}]},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 30, "batch_size": 16, "lr": 0.1},
    },
    "strategies": {"replay": {"learner": "replay", "unlearner": "retrain"}},
    "seeds": 4,
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Ray is polite to what else runs; in a process group that is busy with tests, its workers would wait for minutes.
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> Iterator[Any]:
    """A head without room for runs."""
    yield from begun(0, monkeypatch)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> Iterator[Any]:
    """A head with room for one run."""
    yield from begun(1, monkeypatch)


def begun(num_cpus: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    for name, value in on_ray._QUIET.items():
        monkeypatch.setenv(name, value)
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": num_cpus, "object_store_memory": MEMORY, "_system_config": quick},
    )
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Board:
    """Stands in for the actor that jobs write to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.write = self

    def remote(self, name: str, lived: int, events: int) -> None:
        self.told.append((name, lived, events))


def lived(job: Job) -> int:
    return sum(f.read_bytes().count(b"\n") for f in job.folder.rglob("timings.jsonl"))


@pytest.mark.nightly  # more than a minute until Ray believes that the node is gone
@pytest.mark.filterwarnings("default")
def test_a_node_that_is_killed_costs_nothing_but_time(cluster: Any, tmp_path: Path) -> None:
    study = Study(TINY, root=tmp_path / "runs")
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
    cluster.wait_for_nodes()
    under_way: list[str] = []

    def kill_one() -> None:
        """Kill a node when the two first runs are both in the middle."""
        while len(under_way) < 2:
            under_way[:] = [job.name for job in study.pending if lived(job) > 1]
            time.sleep(0.01)
        cluster.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill_one)
    killer.start()
    results = study.run("ray", address=cluster.address)
    killer.join()
    assert under_way
    assert sorted(r.job.name for r in results) == sorted(j.name for j in study.jobs)
    assert [r.error for r in results if r.error] == []
    for job in study.jobs:
        rows = read_rows(job.folder / "strategies" / "replay" / "results.jsonl")
        assert len({(r.event, r.model, r.subject, r.metric) for r in rows}) == len(rows)
        events = yaml.safe_load((job.folder / "stream.json").read_text())["events"]
        assert {r.event for r in rows if r.metric == "steps"} == set(range(len(events)))
    again = lifelong.run(study.cells[0].config, tmp_path / "alone")
    alone = (again.folder / "strategies" / "replay" / "results.jsonl").read_bytes()
    assert (study.jobs[0].folder / "strategies" / "replay" / "results.jsonl").read_bytes() == alone
    assert study.run("ray", address="127.0.0.1:1") == []  # finished: nobody is asked


def test_a_worker_with_a_disk_of_its_own_sends_its_results(tmp_path: Path) -> None:
    study = Study(TINY | {"seeds": 1}, root=tmp_path / "driver")
    (job,) = study.jobs
    board = Board()
    (result,) = on_ray._run_here((job,), str(tmp_path / "not here"), board)
    assert result.error is None
    assert not job.folder.exists()
    on_ray._write_files(job, result.files)
    assert study.pending == []
    for life in (job.folder / "strategies").iterdir():
        assert len(list((life / "checkpoints").iterdir())) == 1
        check_finished(life, json.loads((life / "done.json").read_text()))
    assert lifelong.resume(job.folder).done
    assert lifelong.load_run(job.folder).done
    shared = tmp_path / "token"
    shared.touch()
    assert on_ray._run_here((job,), str(shared), Board())[0].files == {}
    assert board.told == [(job.name, lived, 6) for lived in range(7)]


def test_a_cohort_is_one_job_whose_runs_come_back_one_by_one(tmp_path: Path) -> None:
    few = TINY["base"] | {"training": {"epochs": 1}, "scenario": {"name": "class-incremental", "experiences": 3}}
    study = Study(TINY | {"base": few, "seeds": 2}, root=tmp_path / "driver")
    board = Board()
    results = on_ray._run_here(tuple(study.jobs), str(tmp_path / "not here"), board)
    for job, result in zip(study.jobs, results, strict=True):
        assert result.error is None
        on_ray._write_files(job, result.files)
    assert study.pending == []
    assert {name for name, _, _ in board.told} == {job.name for job in study.jobs}


@pytest.mark.nightly
def test_a_run_that_came_back_can_be_verified(tmp_path: Path) -> None:
    (job,) = Study(TINY | {"seeds": 1}, root=tmp_path / "driver").jobs
    (result,) = on_ray._run_here((job,), str(tmp_path / "not here"), Board())
    on_ray._write_files(job, result.files)
    assert verify(job.folder, controls=False).upheld


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_jobs_end_with_the_driver_and_go_on_with_the_next(node: Any, tmp_path: Path) -> None:
    long = TINY["base"] | {"training": {"epochs": 150, "batch_size": 16, "lr": 0.1}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | {"seeds": 1, "base": long}))
    (job,) = Study(file, root=tmp_path / "runs").jobs
    command = f"study {file} --on ray --address {node.address} --runs {tmp_path / 'runs'}"
    code = "from cli.main import main; main()"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen([sys.executable, "-c", code, *command.split()], stderr=log)
        wait_for(lambda: lived(job) > 0 or driver.poll() is not None)
        driver.kill()
        driver.wait()

    def is_free() -> bool:
        with contextlib.suppress(BusyError), lock(job.folder):
            return True
        return False

    assert lived(job), (tmp_path / "log").read_text()
    wait_for(is_free)
    study = Study(file, root=tmp_path / "runs")
    assert study.pending
    heard: list[tuple[str, int, int]] = []
    results = study.run("ray", address=node.address, told=lambda *what: heard.append(what))
    assert [r.error for r in results] == [None]
    assert {name for name, _, _ in heard} == {job.name}
    assert {events for _, _, events in heard} == {6}
    assert heard[0][1] > 0
    alone = lifelong.run(study.cells[0].config, tmp_path / "alone").folder
    for name in ("results.jsonl", "scores.bin"):
        mine, other = (folder / "strategies" / "replay" / name for folder in (job.folder, alone))
        assert mine.read_bytes() == other.read_bytes()


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_a_placement_goes_on_when_its_driver_was_killed_and_comes_to_the_same(node: Any, tmp_path: Path) -> None:
    """Tuning and lives are jobs on Ray, cohorts of seeds; the submission is the one that this machine alone makes."""
    name, runs = "replay+gradient-ascent", tmp_path / "runs"
    command = f"bench smoke --strategy {name} --seeds 3 --on ray --address {node.address} --runs {runs}"
    code = "from cli.main import main; main()"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen([sys.executable, "-c", code, *command.split()], stderr=log)
        wait_for(lambda: any(runs.rglob("results.jsonl")) or driver.poll() is not None)
        driver.kill()
        driver.wait()
    assert not (runs / "bench").exists(), (tmp_path / "log").read_text()
    smoke = read_track("smoke")
    named, config = chosen(smoke, name)
    access = admit(smoke, named, config).label()
    ended: list[Job] = []
    heard: set[str] = set()
    watching = Watching(ended=lambda result: ended.append(result.job), told=lambda name, *_: heard.add(name))
    placed = submit(smoke, named, config, access, 3, runs, Place("ray", address=node.address), watching)
    assert len({job.cohort for job in ended if job.config["seed"] < 3}) == 1
    assert {job.name for job in ended} <= heard, "all of them ran on the cluster, those of the search, too"
    assert any(job.config["seed"] >= 1000 for job in ended)
    assert placed == submit(smoke, named, config, access, 3, tmp_path / "alone", Place(workers=1))


def wait_for(holds: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_other_code_on_a_worker_is_refused(tmp_path: Path) -> None:
    (job,) = Study(TINY | {"seeds": 1}, root=tmp_path).jobs
    shared = tmp_path / "token"
    shared.touch()
    other = replace(job, code="0123456789abcdef")
    (result,) = on_ray._run_here((other,), str(shared), Board())
    assert "Install the same version everywhere" in str(result.error)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1", "auto"])
def test_an_address_that_nobody_answers(address: str, tmp_path: Path) -> None:
    study = Study(TINY | {"seeds": 1}, root=tmp_path)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="--address"):
        study.run("ray", address=address)
    assert time.monotonic() - began < 25


@pytest.mark.nightly
def test_an_address_where_something_else_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_ANSWER_S", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ConfigError, match="no Ray cluster answers"):
            Study(TINY | {"seeds": 1}, root=tmp_path).run("ray", address=f"127.0.0.1:{server.getsockname()[1]}")
    assert time.monotonic() - began < 25


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        Study(TINY | {"seeds": 1}, root=tmp_path).run("ray")


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_a_cluster_of_its_own_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quick = TINY | {"seeds": 2, "base": TINY["base"] | {"training": {"epochs": 1}}}
    study = Study(quick, root=tmp_path)
    assert [r.error for r in study.run("ray")] == [None, None]
    assert not ray.is_initialized()
    assert not [f for f in (tmp_path / "study-spread").iterdir() if f.name.startswith(".driver")]
    assert os.environ.get("OMP_NUM_THREADS") is None
