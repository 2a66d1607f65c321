"""Tuning with real runs: what diverges, what is left after a kill, what a report and a tuned configuration say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.report.study import write_study_report
from lifelong.study import place as module
from lifelong.study.forecast import Forecast
from lifelong.study.jobs import Job, JobResult, execute
from lifelong.study.racing import Trial
from lifelong.study.study import Study, resume_study
from streams.errors import ConfigError

Result = tuple[int, str, str]
Call = Callable[..., Result]
STUDY: dict[str, Any] = {
    "name": "tiny",
    "claim": "tuning helps",
    "base": {
        "source": "digits",
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 20}]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.1},
        "evaluation": {"probe": 50},
    },
    "strategies": {
        "none": {"learner": "replay", "unlearner": "none"},
        "ascent": {"learner": "replay", "unlearner": {"name": "gradient-ascent", "lr": 0.01, "epochs": 2}},
    },
    "seeds": [0, 1],
    "tune": {
        "trials": 4,
        "at_once": 2,
        "information": ["oracle", "practical"],
        "confirm": 1,
        "seeds": {"search": [10, 11], "confirm": [12]},
        "ranges": {"ascent": {"unlearner.lr": {"low": 1.0e-3, "high": 1.0e6, "scale": "log"}}},
    },
    "criteria": [
        {
            "name": "tuning helps",
            "metric": "immediate_average_gap",
            "subject": "requests",
            "model": "retrained",
            "of": "ascent+oracle",
            "minus": "ascent",
            "below": 0.0,
        }
    ],
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the jobs that ran, all in this process."""
    labels: list[str] = []

    def here(jobs: Iterable[Job], workers: int | None = None) -> Iterator[JobResult]:
        for job in jobs:
            labels.append(job.label)
            yield execute(job)

    monkeypatch.setattr(module, "run_local", here)
    return labels


def without_seconds(trials: Sequence[Trial]) -> list[Trial]:
    """A run that diverged is tried again, and takes other seconds."""
    return [replace(trial, seconds=0.0) for trial in trials]


@pytest.mark.nightly
def test_a_study_is_tuned_killed_and_judged(tmp_path: Path, ran: list[str]) -> None:
    class Killed(BaseException):
        pass

    def kill(result: JobResult) -> None:
        if len(ran) in (2, 5):
            raise Killed

    study = Study(STUDY, root=tmp_path)
    assert study.tuned is None
    assert study.outcome()["tuning"] == []
    with pytest.raises(ConfigError, match="the tuning, which is not finished"):
        study.run_one(0)
    for _ in range(2):
        with pytest.raises(Killed):
            Study(STUDY, root=tmp_path).run(watch=kill)
    study = resume_study(study.folder)
    assert not [r.error for r in study.run() if r.error]
    assert study.tuned is not None
    num_ran = len(ran)
    assert len(set(ran)) == num_ran  # nothing ran twice, and settings that both modes tried ran once
    assert sum("seed=12" in label for label in ran) <= 4

    oracle, practical = study.outcome()["tuning"]
    assert [len(s["trials"]) for s in (oracle, practical)] == [4, 4]
    assert [t["options"] for t in oracle["trials"][:2]] == [t["options"] for t in practical["trials"][:2]]
    states = [t["state"] for s in (oracle, practical) for t in s["trials"]]
    assert "diverged" in states
    assert all(s["seconds"] > 0 and s["passes"] > 0 for s in (oracle, practical))
    for search in (oracle, practical):
        assert search["confirmed"] <= search["default"]
        assert search["helped"]["n"] == 2
    judged = study.cells[0].config.strategies["ascent+oracle"].unlearner.options
    assert judged["lr"] == oracle["options"].get("unlearner.lr", 0.01)
    (verdict,) = study.verdicts()
    assert verdict.estimate is not None
    page = write_study_report(study).read_text(encoding="utf-8")
    assert "ascent+practical" in page.split('id="tuning-title"')[1].split("<section")[0]

    # Whatever is on disk is not computed again, and leads to the same.
    trials = [without_seconds(t.trials) for t in study.tuned]
    assert Study(STUDY, root=tmp_path).run() == []
    (study.folder / "tuning.json").unlink()
    again = Study(STUDY, root=tmp_path)
    again.run()
    assert again.tuned is not None
    assert [without_seconds(t.trials) for t in again.tuned] == trials
    # Runs that diverged leave no result: without the notes they diverge again.
    assert all("lr=" in label for label in ran[num_ran:])
    assert len(ran) - num_ran <= states.count("diverged")


def test_a_goal_that_no_run_has_is_refused_with_the_reason(tmp_path: Path) -> None:
    goal = {"practical": [{"metric": "forget_accuracy", "subject": "request-7", "better": "lower"}]}
    tune = STUDY["tune"] | {"goal": goal, "information": "practical", "trials": 2}
    study = Study(STUDY | {"tune": tune, "criteria": []}, root=tmp_path)
    with pytest.raises(ConfigError, match=r"tune\.goal\.practical: no run of 'ascent' has a value of forget_accuracy"):
        study.run()


def test_what_fails_otherwise_is_shown_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    broken = "streams.errors.DataError: the disk is gone"
    monkeypatch.setattr(module, "run_local", lambda jobs, workers=None: [JobResult(j, 0.0, broken) for j in jobs])
    study = Study(STUDY, root=tmp_path)
    assert {r.error for r in study.run()} == {broken}
    assert study.tuned is None
    assert json.loads((study.folder / "verdicts.json").read_text(encoding="utf-8"))["failed"]


def test_the_command_says_what_is_tuned_before_it_is(tmp_path: Path, call: Call) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    code, out, err = call("study", str(file), "--dry-run")
    assert code == 0, err
    assert "First 1 strategy is tuned (oracle and practical information): 4 trials each on seeds 10, 11" in err
    assert "The others and the tuning before them take about" in out
    code, _, err = call("study", str(file), "--list-jobs")
    assert code == 2
    assert "depends on the tuning, which is not finished" in err


def test_trials_are_estimated_on_the_cores_that_they_take(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few seeds are judged, and the search before them has more runs that can go on beside each other."""
    monkeypatch.setattr("lifelong.study.forecast.forecast", lambda *_: Forecast(160.0, 0.0, 1.0))
    monkeypatch.setattr("lifelong.study.local.num_cores", lambda: 16)
    study = Study(STUDY, root=tmp_path)
    assert study.tuning is not None
    runs, judged = study.tuning.num_runs(), len(study.pending)
    assert study.tuning.num_at_once() == 2 * 2, "trials of a round, and modes of information"
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    estimate = json.loads(call("study", str(file), "--dry-run", "--json")[1])
    assert estimate["workers"] == study.tuning.num_at_once() > judged
    expected = 160.0 / judged + 160.0 * runs / len(study.tuning.samples()[0]) / study.tuning.num_at_once()
    assert estimate["estimate"]["wall_seconds"] == pytest.approx(expected)


def test_a_tuned_configuration_runs(tmp_path: Path, call: Call, ran: list[str]) -> None:
    strategies = {"ascent": STUDY["strategies"]["ascent"], "none": STUDY["strategies"]["none"]}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(STUDY["base"] | {"name": "mine", "strategies": strategies}), encoding="utf-8")
    code, out, err = call("tune", str(file), "--trials", "2", "--quiet", "--seed=3")
    assert code == 0, err
    assert "mine-tuned.yaml: lifelong run mine-tuned.yaml" in out
    assert all("seed=3" not in label for label in ran)
    text = Path("mine-tuned.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Tuned: 2 trials of every strategy, practical information, seeds [1000, 1001]")
    tuned = lifelong.load_config("mine-tuned.yaml")
    assert tuned.seed == 3
    assert list(tuned.strategies) == ["ascent", "none"]
    assert tuned.strategies["ascent"].unlearner.name == "gradient-ascent"
    code, _, err = call("tune", str(file), "--trials", "2", "--quiet")
    assert code == 2
    assert "is not overwritten" in err
    code, _, err = call("tune", str(file), "--trials", "2", "--quiet", "--seed=1001", "--file", "other.yaml")
    assert code == 2
    assert "tune.seeds.search: [1001] are seeds that the study is judged on" in err
    assert not os.path.exists("other.yaml")
