"""Runs that train side by side: the bytes of runs that are alone, whoever they are with, whatever happens to one."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.execution.life import Life
from lifelong.references.comparison import reference_files
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import prepare
from lifelong.study.cohorts import execute_together
from lifelong.study.config import StudyConfig, lay_out
from lifelong.study.jobs import Job, execute, make_jobs
from lifelong.study.local import run_local
from strategies.parts import together as module
from strategies.parts.model import digest
from strategies.step import step
from streams.config import parse
from streams.ledger import Ledger

BASE: dict[str, Any] = {
    "source": {"name": "digits"},
    "scenario": {"name": "class-incremental", "experiences": 5},
    "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "sample", "count": 15}]},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 50, "lr": 0.1},
    "evaluation": {"probe": 100},
    "references": {"kinds": []},
}
PAIRS = {
    "naive-finetune": {"learner": "naive", "unlearner": {"name": "finetune", "epochs": 2}},
    "replay-ascent": {
        "learner": {"name": "replay", "memory": 60, "batch": 7},
        "unlearner": {"name": "gradient-ascent", "lr": 0.01, "epochs": 2},
    },
    "ewc-finetune": {"learner": "ewc", "unlearner": {"name": "finetune", "epochs": 1, "batch_size": 64}},
}


def jobs_of(root: Path, seeds: Sequence[int], base: dict[str, Any] | None = None) -> list[Job]:
    """One job for every pair of learner and unlearner and every seed."""
    study = {"name": "cohorts", "claim": "none", "base": {**BASE, "strategies": PAIRS, **(base or {})}, "seeds": seeds}
    jobs = make_jobs(lay_out(parse(StudyConfig, study)), root)
    return sorted(jobs, key=lambda job: list(job.config["strategies"]))


def prints(jobs: Sequence[Job]) -> dict[str, list[Any]]:
    """What a run leaves: its rows, scores and losses byte for byte, and its last state."""
    found = {}
    for job in jobs:
        for name in job.config["strategies"]:
            folder = job.folder / "strategies" / name
            files = [(folder / n).read_bytes() for n in ("results.jsonl", "scores.bin", "losses.bin")]
            last = sorted((folder / "checkpoints").glob("event-*.pt"))[-1]
            state = torch.load(last, weights_only=True)
            found[f"{name} {job.point}"] = [*files, digest(state["state"])]
    return found


def by_strategy(jobs: Sequence[Job]) -> list[list[Job]]:
    groups: dict[str | None, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.cohort, []).append(job)
    return list(groups.values())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Seeds 0 to 2, each by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        jobs = jobs_of(tmp_path_factory.mktemp("alone"), range(3))
        for job in jobs:
            assert execute(job).error is None
        return prints(jobs)


def test_bytes_of_a_run_do_not_depend_on_its_company(alone: dict[str, list[Any]], tmp_path: Path) -> None:
    joined: list[int] = []
    trained = module.fit_stacked

    def counted(jobs: Any) -> Any:
        joined.append(len(jobs))
        return trained(jobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit_stacked", counted)
        for group in by_strategy(jobs_of(tmp_path, [4, 2, 0, 3, 1])):
            results = execute_together(group)
            assert [r.error for r in results] == [None] * 5
            assert all(r.seconds > 0 for r in results)
            found = prints(group)
            assert found.items() >= {k: v for k, v in alone.items() if k in found}.items()
    assert len(joined) >= 3 * 6
    assert set(joined) == {5}, "every training of every run was that of all five"


def test_a_killed_cohort_goes_on_in_other_cohorts(
    alone: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed where one run is an event ahead of the others; then two go on side by side, and one by itself."""
    group = by_strategy(jobs_of(tmp_path, range(3)))[1]
    evaluate, calls = Life._evaluate, []

    def killed(self: Life, strategy: Any, index: int) -> Any:
        calls.append(index)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return evaluate(self, strategy, index)

    with monkeypatch.context() as patch:
        patch.setattr(Life, "_evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            execute_together(group)
    assert not any(
        (job.folder / "strategies" / n / "done.json").exists() for job in group for n in job.config["strategies"]
    )
    assert [r.error for r in execute_together([group[2], group[0]])] == [None] * 2
    assert execute(group[1]).error is None
    found = prints(group)
    assert found == {k: v for k, v in alone.items() if k in found}
    assert len(found) == 3


def test_one_that_diverges_ends_alone(alone: dict[str, list[Any]], tmp_path: Path) -> None:
    group = by_strategy(jobs_of(tmp_path, range(3)))[0]
    group[1] = replace(group[1], config=group[1].config | {"training": {**BASE["training"], "lr": 1e20}})
    bad = jobs_of(tmp_path / "other", [1], {"training": {**BASE["training"], "lr": 1e20}})
    group[1] = next(job for job in bad if list(job.config["strategies"]) == list(group[0].config["strategies"]))
    results = execute_together(group)
    assert [r.error is None for r in results] == [True, False, True]
    assert "Training diverged" in str(results[1].error)
    found = prints([group[0], group[2]])
    assert found == {k: v for k, v in alone.items() if k in found}


def test_runs_with_the_same_references_do_not_wait_for_each_other_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lives are wanted by both at the same time, and one holds the lock while it waits in `fit`."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    pair = {"strategies": {"naive-finetune": PAIRS["naive-finetune"]}, "references": {"kinds": ["retrained"]}}
    few = {"scenario": {"name": "class-incremental", "experiences": 2}}
    few["schedule"] = {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 15}]}
    jobs = [jobs_of(tmp_path / n, [0], {**pair, **few})[0] for n in ("a", "b")]
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.extend(execute_together(jobs)), daemon=True)
    thread.start()
    thread.join(120)
    assert [r.error for r in done] == [None, None], "a deadlock"
    assert prints(jobs[:1]) == prints(jobs[1:])


def test_what_cannot_join_trains_alone_and_says_so(tmp_path: Path) -> None:
    """A refresh displaces the weights; the timings of its events tell."""
    refresh = {"strategies": {"refresh": {"learner": ["naive", "refresh"], "unlearner": "none"}}}
    few = {"scenario": {"name": "class-incremental", "experiences": 2}, "schedule": "none"}
    jobs = jobs_of(tmp_path, range(2), {**refresh, **few})
    assert [r.error for r in execute_together(jobs)] == [None, None]
    lines = (jobs[0].folder / "strategies/refresh/timings.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["alone"] for line in lines} == {"a hook displaces the weights"}


def test_a_pool_runs_cohorts(tmp_path: Path) -> None:
    """Two workers share four seeds out between them; a job of another code fails alone."""
    few = {"scenario": {"name": "class-incremental", "experiences": 2}, "schedule": "none"}
    jobs = jobs_of(tmp_path, range(4), {"strategies": {"naive": {"learner": "naive", "unlearner": "none"}}, **few})
    jobs[3] = replace(jobs[3], code="another")
    results = {r.job.name: r.error for r in run_local(jobs, workers=2)}
    assert [results[job.name] is None for job in jobs] == [True, True, True, False]
    assert parse(RunConfig, jobs[0].config).seed == 0


@pytest.mark.nightly
def test_precision_and_memory_format_are_part_of_what_decides_a_run(tmp_path: Path) -> None:
    """Runs with other arithmetic are other runs with references of their own, and come out nearly alike."""
    few: dict[str, Any] = {
        "source": {"name": "glyphs", "classes": 20},
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 15}]},
        "model": {"name": "lenet"},
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.05},
    }
    prepared = {
        name: prepare(parse(RunConfig, few | options))
        for name, options in {
            "single": {},
            "bf16": {"precision": "bf16"},
            "last": {"channels_last": True},
            "head": {"trained": "head"},
        }.items()
    }
    assert len({p.identity for p in prepared.values()}) == 4
    files = {}
    for name, p in prepared.items():
        instruments = make_instruments(p.config.evaluation, p.stream, p.plan, p.setting, "cpu")
        files[name] = frozenset(reference_files(p, "naive", instruments))
    assert len(set(files.values())) == 4
    learned = {}
    for name in ("single", "bf16", "last"):
        p = prepared[name]
        strategy = p.strategies.build("naive")
        step(strategy, p.stream.events[0], Ledger(p.stream.source))
        learned[name] = strategy.learner.model.parameters  # type: ignore[attr-defined]
        assert learned[name].dtype == torch.float32
    start = prepared["single"].setting.make_model().parameters
    moved = (learned["single"] - start).norm()
    assert 0 < (learned["bf16"] - learned["single"]).norm() < 0.1 * moved
    assert (learned["last"] - learned["single"]).norm() < 1e-3 * moved
