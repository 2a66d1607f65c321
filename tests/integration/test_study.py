"""Studies as a person meets them: run, killed and gone on with, failing in part, refused, tracked."""

from __future__ import annotations

import doctest
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.results.integrity import with_digest
from lifelong.setup.preparation import prepare
from lifelong.study import local, place
from lifelong.study.forecast import Forecast, forecast
from lifelong.study.jobs import JobResult, execute
from lifelong.study.local import run_local
from lifelong.study.study import Study, finished, resume_study
from streams.config import parse
from streams.errors import ConfigError, LifelongError

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "name": "tiny",
    "claim": "replay accumulates",
    "base": {
        "source": "digits",
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "explicit", "requests": [{"after": 3, "scope": "class", "keys": [1]}]},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.1},
    },
    "strategies": {
        "naive": {"learner": "naive", "unlearner": "none"},
        "replay": {"learner": "replay", "unlearner": "none"},
        "again": {"learner": "replay", "unlearner": "retrain"},
    },
    "seeds": 3,
    "comparisons": [{"metric": "average_accuracy", "of": ["replay", "again"], "minus": "naive"}],
    "criteria": [
        {"name": "it accumulates", "metric": "average_accuracy", "of": "replay", "minus": "naive", "above": 0.05},
        {
            "name": "it is exact",
            "metric": "immediate_js",
            "subject": "requests",
            "model": "retrained",
            "of": "again",
            "below": 1e-12,
        },
    ],
}
OWN_METRIC = '''"""A number of something that no stream knows."""
from strategies.metric import Metric
from streams.config import Config as BaseConfig

METRICS = {"half": Metric("A half.", "share", "neither")}


class Config(BaseConfig):
    """No options."""


def rows(snapshot, config):
    return [snapshot.row("first half", "half", 0.5, 1)]
'''
Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "200")
    for name in [n for n in os.environ if n.startswith("WANDB_")] + ["FORCE_COLOR", "RAY_ADDRESS"]:
        monkeypatch.delenv(name, raising=False)


def write(place: Path, **changes: Any) -> Path:
    file = place / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | changes, sort_keys=False), encoding="utf-8")
    return file


def rows_of(study: Study) -> dict[str, bytes]:
    """The table of every strategy of every job, as bytes."""
    return {
        f"{job.name}/{name}": (job.folder / "strategies" / name / "results.jsonl").read_bytes()
        for job in study.jobs
        for name in job.config["strategies"]
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The rows of a whole study, computed by one run after another in this process."""
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(place / "cache"))
        study = Study(TINY, root=place)
        for cell in study.cells:
            run = lifelong.run(cell.config, place / "alone")
            assert run.done
        found = {}
        for job in study.jobs:
            cell = study.cells[job.cell]
            (folder,) = [f for f in (place / "alone").iterdir() if _config(f)["seed"] == cell.seed]
            for name in job.config["strategies"]:
                found[f"{job.name}/{name}"] = (folder / "strategies" / name / "results.jsonl").read_bytes()
    return found


def _config(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return data


def test_a_study_runs_ends_with_verdicts_and_computes_nothing_again(
    call: Call, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    file = write(tmp_path)
    code, out, err = call("study", str(file))
    assert code == 0, err
    assert "reproduced  it accumulates" in out
    assert "reproduced  it is exact" in out
    assert "replay - naive" in out
    assert "[6/6" in err
    study = Study(file)
    assert rows_of(study) == undisturbed
    before = {f: f.stat().st_mtime_ns for job in study.jobs for f in job.folder.rglob("*") if f.is_file()}
    code, out, err = call("study", str(study.folder), "--json")  # going on by the folder
    assert code == 0
    assert "Nothing to compute" in err
    outcome = json.loads(out)
    assert [v["outcome"] for v in outcome["verdicts"]] == ["reproduced", "reproduced"]
    assert (outcome["runs_done"], outcome["runs"], outcome["runs_done_when_criteria_were_declared"]) == (6, 6, 0)
    assert {f: f.stat().st_mtime_ns for f in before} == before
    # Another bar is another claim: nothing is computed, and that it came late is told.
    code, out, err = call("study", str(write(tmp_path, criteria=[TINY["criteria"][0] | {"above": 0.99}])))
    assert code == 3
    assert "contradicted" in out
    assert "when 6 of 6 runs were finished already" in out
    assert "Nothing to compute" in err
    # One more seed finds the runs of the others.
    assert len(Study(write(tmp_path, seeds=4)).pending) == 2


QUICK: dict[str, Any] = TINY | {
    "base": TINY["base"] | {"schedule": "none", "references": {"kinds": []}},
    "strategies": {"naive": TINY["strategies"]["naive"], "replay": TINY["strategies"]["replay"]},
    "comparisons": [],
}
HELPS: dict[str, Any] = TINY["criteria"][0]


@pytest.mark.nightly
def test_a_study_with_looks_ends_when_all_is_decided(call: Call, tmp_path: Path) -> None:
    looks = QUICK | {"seeds": {"looks": [3, 4, 6]}, "criteria": [HELPS | {"above": -0.9}]}
    study = Study(looks, root=tmp_path / "runs")
    asked: list[int] = []
    assert len(study.run(begin=lambda jobs: asked.append(len(jobs)))) == 6
    assert asked == [6]  # two strategies under three seeds, and no more
    assert (study.seeds, len(study.jobs), len(study.all_jobs)) == ((0, 1, 2), 6, 12)
    outcome = json.loads((study.folder / "verdicts.json").read_text())
    assert (outcome["runs"], outcome["runs_done"], outcome["seeds"]) == (6, 6, [0, 1, 2])
    assert outcome["rule"] == {"looks": [3, 4, 6], "anytime": False, "interval": study.rule.interval}
    # What cannot be decided goes to the last look; what was lived before is not lived again.
    assert study.run() == []
    mean = study.verdicts()[0].estimate
    assert mean is not None
    (tmp_path / "hard.yaml").write_text(yaml.safe_dump(looks | {"criteria": [HELPS | {"above": mean.mean}]}))
    code, out, err = call("study", "hard.yaml")
    assert code == 0, err
    assert "Pocock's level for looks at 3, 4, 6 seeds" in out
    assert "[8/8" in err
    assert "[12/12" in err
    assert [v.outcome for v in Study("hard.yaml").verdicts()] == ["undecided"]


def test_seeds_that_are_added_after_a_look_are_noticed(call: Call, tmp_path: Path) -> None:
    first = Study(QUICK | {"criteria": [HELPS]}, root=tmp_path / "runs")
    first.run()
    assert first.looked_before == ()
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(QUICK | {"criteria": [HELPS], "seeds": 4}))
    more = Study("more.yaml")
    assert (more.looked_before, more.rule.anytime) == ((3,), True)
    code, out, err = call("study", "more.yaml")
    assert code in (0, 3)
    assert "Seeds were added after verdicts were seen at 3, without a plan for that" in out
    assert "t test that is valid at any time" in err
    assert resume_study(more.folder).looked_before == (3,)
    # A plan for it, other criteria, or other seeds are no such thing.
    for changes in ({"seeds": {"open": 4}}, {"criteria": [HELPS | {"above": 0.1}]}, {"seeds": [5, 6, 7, 8]}):
        assert Study(QUICK | {"criteria": [HELPS], "seeds": 4} | changes, root=tmp_path / "runs").looked_before == ()


@pytest.mark.nightly
def test_shared_prefixes_and_references_are_computed_once(tmp_path: Path) -> None:
    grid = {"strategies.again.unlearner": ["retrain", {"name": "finetune", "epochs": 1}]}
    study = Study(TINY | {"grid": grid, "seeds": 1, "criteria": [], "comparisons": []}, root=tmp_path)
    assert not [r.error for r in study.run(workers=1) if r.error]
    summaries = [
        (name, json.loads((job.folder / "strategies" / name / "done.json").read_text())["references"])
        for job in study.jobs
        for name in job.config["strategies"]
        if name != "naive"
    ]
    # At the request and at the end, for the first of two strategies with the same learner; the second grid point takes
    # that life over, with what it says of itself.
    counts = sorted((name, s["computed"], s["cached"]) for name, s in summaries)
    assert counts == [("again", 0, 2)] * 2 + [("replay", 2, 0)] * 2
    shared = next(j for j in study.jobs if "again" in j.config["strategies"])
    first, second = (
        (shared.folder / "strategies" / name / "timings.jsonl").read_text().splitlines() for name in ("replay", "again")
    )
    assert first[:3] == second[:3]  # to the last digit of a second: lived once
    assert first[3:] != second[3:]


def test_a_number_that_no_run_has_ends_the_study_at_its_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"name": "nothing", "metric": "immediate_ua", "subject": "requests", "of": "naive", "above": 0.0}
    changes = {"strategies": {"naive": TINY["strategies"]["naive"]}, "comparisons": [], "criteria": [nothing]}
    study = Study(TINY | changes | {"base": TINY["base"] | {"references": {"kinds": []}}}, root=tmp_path)
    monkeypatch.setattr(place, "run_local", lambda jobs, workers: map(execute, jobs))
    said = r"^criteria\.0: a run of naive is finished and has no immediate_ua of requests\. Take it out"
    with pytest.raises(ConfigError, match=said):
        study.run()
    assert len(study.pending) == 2, "the first one is kept"
    with pytest.raises(ConfigError, match=said):
        study.run_one(1)


@pytest.mark.nightly
def test_from_python(tmp_path: Path) -> None:
    study = lifelong.Study(TINY | {"sizes": {"small": {"seeds": 1}}}, "small", tmp_path)
    heard: list[JobResult] = []
    results = study.run(workers=1, watch=heard.append)
    assert results == heard
    assert len(results) == 2
    frame = study.frame()
    assert set(frame) == {"seed", "strategy", "event", "model", "subject", "metric", "value", "n", "reason"}
    assert {len(column) for column in frame.values()} == {sum(len(r.splitlines()) for r in rows_of(study).values())}
    assert set(frame["strategy"]) == {"naive", "replay", "again"}
    assert [v.outcome for v in study.verdicts()] == ["undecided", "undecided"]  # one seed
    assert resume_study(study.folder).jobs == study.jobs


def test_dry_run(call: Call, tmp_path: Path) -> None:
    file = write(tmp_path, seeds=1)
    code, out, err = call("study", str(file), "--dry-run")
    assert code == 0, err
    assert out.count("to do") == 2
    assert "estimate" in out
    assert not (tmp_path / "runs").exists()
    for job in Study(file).jobs:
        assert execute(job).error is None
    code, out, _ = call("study", str(file), "--dry-run", "--json")
    assert code == 0
    data = json.loads(out)
    assert [j["done"] for j in data["jobs"]] == [True, True]
    assert data["estimate"]["bytes"] == 0


def test_an_estimate_is_of_all_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One job of each kind is tried, and stands for those of its kind: three seeds take three times as long."""
    tried: list[Any] = []
    monkeypatch.setattr("lifelong.study.forecast._of_job", lambda job, _: tried.append(job) or Forecast(2.0, 10.0))
    study = Study(TINY | {"seeds": 3}, root=tmp_path / "runs")
    assert forecast(study.pending, study.cells) == Forecast(2.0 * len(study.jobs), 10.0 * len(study.jobs), 2.0)
    assert len(study.jobs) == 3 * len(tried)
    assert forecast([], study.cells) == Forecast()
    assert [Forecast(6.0, 0.0, 2.0).on(processes) for processes in (1, 2, 8)] == [6.0, 3.0, 2.0]


@pytest.mark.nightly  # twenty times the training of the other tests here
@pytest.mark.parametrize("allowed_s", [20.0, 0.5], ids=["whole", "extrapolated"])
def test_the_estimate_is_right_within_a_factor_of_two(
    allowed_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In seconds of this process alone, so that it does not matter who else is at work on the machine."""
    pytest.importorskip("sklearn.svm")  # so that its import is nobody's time
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    monkeypatch.setattr("lifelong.study.forecast._MOST_S", allowed_s)
    longer = TINY["base"] | {"training": TINY["base"]["training"] | {"epochs": 40}}
    study = Study(TINY | {"base": longer, "seeds": 1}, root=tmp_path / "runs")
    expected = forecast(study.pending, study.cells)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # of references that were played
    began = time.process_time()
    for job in study.jobs:
        assert execute(job).error is None
    took = time.process_time() - began
    folders = [*(job.folder for job in study.jobs), tmp_path / "cache"]
    written = sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
    assert took / 2 < expected.seconds < 2 * took
    assert written / 2 < expected.size < 2 * written


def start(*arguments: str) -> subprocess.Popen[str]:
    program = "from cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def lived(study: Study) -> int:
    """Events that are safe on disk."""
    return sum(f.read_bytes().count(b"\n") for job in study.jobs for f in job.folder.rglob("timings.jsonl"))


@pytest.mark.nightly  # a killed worker, Ctrl-C and killed runs are tested by default
def test_killed_at_random_it_goes_on_and_ends_the_same(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    file, instants, kills = write(tmp_path), random.Random(0), 0
    study = Study(file)
    for _ in range(2):
        before, limit = lived(study), time.monotonic() + 60
        with start("study", str(file), "--quiet") as process:
            while lived(study) == before and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.01)
            time.sleep(instants.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    assert kills
    # Workers end with their study: nobody holds the folders, and the rest is computed at once.
    done = [job.name for job in study.jobs if job not in study.pending]
    results = study.run()
    assert not [r.error for r in results if r.error]
    assert not {r.job.name for r in results} & set(done)
    assert rows_of(study) == undisturbed


@pytest.mark.nightly
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    study = Study(write(tmp_path))
    with start("study", "tiny.yaml") as process:
        while not lived(study) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"lifelong study {Path('runs') / study.folder.name}" in err
    assert "Traceback" not in err


@pytest.mark.nightly
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    study = Study(TINY, root=tmp_path)
    killed = []

    def kill_one() -> None:
        while not lived(study):
            time.sleep(0.01)
        victim = multiprocessing.active_children()[0]
        killed.append(victim.pid)
        victim.kill()

    thread = threading.Thread(target=kill_one)
    thread.start()
    results = study.run(workers=2)
    thread.join()
    assert killed
    assert len(results) == 6
    assert not [r.error for r in results if r.error]
    assert rows_of(study) == undisturbed


@pytest.mark.nightly
def test_a_job_whose_worker_always_dies_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ends without a word, as when the kernel runs out of memory."""
    study = Study(TINY, root=tmp_path)
    bad, good = study.jobs[:2]
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import killer  # type: ignore[import-not-found]

    fatal = killer.Fatal(bad.cell, bad.label, bad.config, bad.root, bad.name, bad.code)
    results = {r.job.name: r for r in run_local([fatal, good], workers=2)}
    assert "died 2 times, the last time by signal SIGKILL" in str(results[bad.name].error)
    assert results[good.name].error is None


KILLER = """
import os, signal
from lifelong.study.jobs import Job

class Fatal(Job):
    def __reduce__(self):
        return (_die, (os.getpid(),))

def _die(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_fails_leaves_the_others_going(call: Call, tmp_path: Path) -> None:
    strategies = TINY["strategies"] | {
        "wild": {"learner": "replay", "unlearner": {"name": "gradient-ascent", "lr": 1e30, "epochs": 30}}
    }
    file = write(tmp_path, strategies=strategies, grid={"training.lr": [0.1, 1e30]}, seeds=1)
    code, out, err = call("study", str(file))
    assert code == 1
    study = Study(file)
    assert "Traceback (most recent call last)" in err
    assert "TrainingError" in err
    ended = {name for job, name, _ in finished(study.jobs) if study.cells[job.cell].values["training.lr"] == 0.1}
    assert {"again", "naive", "replay"} <= ended
    command = next(line.strip() for line in err.splitlines() if line.startswith("  lifelong run "))
    code, _, err = call(*command.split()[1:], "--quiet")
    assert code == 1
    assert "Error:" in err
    assert not (tmp_path / "runs" / "tiny").exists()
    assert len(list((tmp_path / "runs" / "study-tiny").iterdir())) == len(study.jobs)  # it found its folder again


def test_a_number_of_a_layer_or_a_pair_of_tasks_is_judged(tmp_path: Path) -> None:
    """Traits are about what the strategy names; a study takes its word for it."""
    own = tmp_path / "own.py"
    own.write_text(OWN_METRIC, encoding="utf-8")
    base = TINY["base"] | {"scenario": {"name": "task-incremental", "experiences": 2}, "schedule": "none"}
    asked = [
        ("capacity_used", "layer body.0", 0.0),
        ("inherited", "task-0 > task-1", -1.0),
        ("half", "first half", 0.4),
    ]
    criteria = [
        {"name": metric, "metric": metric, "subject": subject, "of": "ssnet", "above": above}
        for metric, subject, above in asked
    ]
    changes = {"strategies": {"ssnet": {"isolated": "ssnet"}}, "comparisons": [], "criteria": criteria, "seeds": 2}
    base |= {"evaluation": {"metrics": [str(own)]}, "references": {"kinds": []}}
    study = Study(TINY | changes | {"base": base}, root=tmp_path)
    study.check()
    study.run(workers=1)
    assert [v.estimate is not None for v in study.results().verdicts()] == [True] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"training.lrr": [0.1]}}, "training.lrr"),
        ({"criteria": [TINY["criteria"][0] | {"subject": "task-99"}]}, "no run has 'task-99'"),
        ({"criteria": [TINY["criteria"][0] | {"metric": "average_negative_absolute_error"}]}, "scored by accuracy"),
        ({"criteria": [TINY["criteria"][0] | {"event": "request-7"}]}, "there is no 'request-7'"),
        ({"criteria": [TINY["criteria"][0] | {"event": 77}]}, "there is no event 77"),
    ],
)
def test_what_no_run_can_answer_is_refused_before_compute(
    call: Call, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    code, out, err = call("study", str(write(tmp_path, **changes)))
    assert (code, out) == (2, "")
    assert message in err
    assert not list(tmp_path.glob("runs/study-tiny/*"))


def test_other_bad_input(call: Call, tmp_path: Path) -> None:
    file = write(tmp_path)
    for arguments, message in (
        (["missing.yaml"], "missing.yaml"),
        ([str(file), "--size", "small"], "no size 'small'"),
        ([str(tmp_path)], "not a study folder"),
        ([str(tmp_path), "--size", "small"], "has its size already"),
        ([str(file), "--runs", str(file)], "tiny.yaml"),
    ):
        code, out, err = call("study", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err
        assert "Traceback" not in err


@pytest.mark.nightly
def test_a_disk_that_is_full_is_told_and_freed_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(TINY | {"seeds": 1}, root=tmp_path)

    def full(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(file))

    with monkeypatch.context() as patch:
        patch.setattr("lifelong.study.study.write_atomically", full)
        with pytest.raises(LifelongError, match="Free some space") as caught:
            study.run()
        assert not isinstance(caught.value, ConfigError)
    assert not [r.error for r in study.run() if r.error]


def test_the_page_of_results_is_made_from_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "studies" / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    reproduce = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reproduce)
    assert doctest.testmod(reproduce) == (0, 1)
    assert reproduce.main(["--check"]) == 0
    for name, value in (("STUDIES", tmp_path), ("RESULTS", tmp_path / "results"), ("PAGE", tmp_path / "page.md")):
        monkeypatch.setattr(reproduce, name, value)
    write(tmp_path)
    study = Study(TINY | {"seeds": 1}, root=tmp_path / "runs")
    study._declare()
    for outcome, message in (
        (study.outcome(), "left out, 0 of 2 runs are finished"),
        (study.outcome() | {"runs_done": 2}, "kept as"),
    ):
        (study.folder / "verdicts.json").write_bytes(with_digest(outcome))
        assert reproduce.main([str(study.folder)]) == 0
        assert message in capsys.readouterr().err
    kept = (tmp_path / "page.md").read_text()
    edited = (study.folder / "verdicts.json").read_bytes().replace(b'"runs": 2', b'"runs": 1')
    (study.folder / "verdicts.json").write_bytes(edited)
    assert reproduce.main([str(study.folder)]) == 0
    assert "verdicts.json was damaged or edited" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == kept
    assert reproduce.main([str(tmp_path)]) == 0
    assert "left out, it is no study folder" in capsys.readouterr().err
    page = (tmp_path / "page.md").read_text()
    assert "| undecided | it accumulates | replay - naive on average_accuracy > 0.05 | - | - | - | 0 | - | - |" in page
    assert "| [tiny, as written](#tiny-as-written) |  |  | 2 |  |  |" in page
    assert "Command: `lifelong study studies/tiny.yaml`" in page


def test_a_job_knows_the_folder_of_its_run(tmp_path: Path) -> None:
    """The name holds the identity of configuration and code: by it a study takes up what was run before."""
    for job in Study(TINY | {"seeds": 1}, root=tmp_path).jobs:
        assert prepare(parse(lifelong.RunConfig, job.config)).folder(job.root) == job.folder


def test_workers_take_the_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    worker = local._Worker
    monkeypatch.setattr(local, "_Worker", lambda share: shares.append(share) or worker(share))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 2")
    jobs = Study(TINY, root=tmp_path).jobs[:3]
    results = run_local([replace(job, config=job.config | {"device": "cuda"}, code="other") for job in jobs], 3)
    assert all("has version" in str(result.error) for result in results)  # what they run does not matter here
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0", "2", "0"]
    shares.clear()
    list(run_local([replace(jobs[0], code="other")], 1))
    assert shares == [{}]


@pytest.mark.nightly
def test_a_job_array_needs_no_process_that_waits(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"seeds": 2, "criteria": TINY["criteria"][:1]}))
    study = ["study", str(file), "--runs", str(tmp_path / "runs")]
    code, out, _ = call(*study, "--list-jobs", "--json")
    jobs = json.loads(out)
    assert code == 0
    assert [(j["job"], j["done"]) for j in jobs] == [(n, False) for n in range(4)]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert call(*study, "--job", "slurm")[0] == 0
    assert call(*study, "--job", "0")[0] == 0
    code, out, _ = call(*study, "--collect", "--json")
    assert (code, json.loads(out)["runs_done"]) == (0, 2)
    for number in ("1", "2", "2"):  # the last finds that there is nothing to do
        assert call(*study, "--job", number)[0] == 0
    code, out, _ = call(*study, "--collect", "--json")
    collected = json.loads(out)
    assert (code, collected["runs_done"], collected["verdicts"][0]["estimate"]["n"]) == (0, 4, 2)
    assert Path(collected["report"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--job", "9"], "--job 9: the study has jobs 0 to 5 (--list-jobs)."),
        (["--job", "first"], "--job first: a number from 0 on"),
        (["--job", "slurm"], "--job slurm: $SLURM_ARRAY_TASK_ID is not set"),
        (["--job", "1", "--collect"], "--dry-run, --list-jobs, --job and --collect each do one thing"),
    ],
)
def test_a_task_that_is_not_there(arguments: list[str], message: str, tmp_path: Path, call: Any) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    code, _, err = call("study", str(file), "--runs", str(tmp_path / "runs"), *arguments)
    assert code == 2
    assert message in err
