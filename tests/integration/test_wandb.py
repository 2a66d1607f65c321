"""The real wandb package, offline: what it wrote, read back, is what the run folder holds."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.audits import _judge
from lifelong.config.run import RunConfig
from lifelong.results.table import Row, read_rows
from lifelong.study.share import share
from lifelong.trackers._base import RunInfo, Tracker, load_tracker
from lifelong.trackers._charts import requests_chart, units_chart
from lifelong.trackers._server import Place, mode_wanted
from lifelong.trackers._wide import Wide
from lifelong.trackers.wandb import WandbTracker, flatten
from streams.config import parse
from streams.errors import ConfigError, TrainingError

TINY = {
    "name": "tiny",
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 1, "scope": "sample", "count": 5}, {"after": 2, "scope": "class", "keys": [1]}],
    },
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 1},
    "strategies": {"naive": {"unlearner": "none"}, "replay": {"learner": "replay", "unlearner": "retrain"}},
    "references": {"kinds": ["retrained", "withheld"]},
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no netrc, no settings of whoever runs the tests; a cache and a working folder of our own."""
    for name in [n for n in os.environ if n.startswith("WANDB_") or n == "NETRC"]:
        monkeypatch.delenv(name)
    for name in ("home", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")  # a process of its own for each run
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "elsewhere")


def test_offline_files_hold_the_rows_of_the_run(tmp_path: Path) -> None:
    run = lifelong.run(parse(RunConfig, TINY), tmp_path / "runs", [WandbTracker(point="training.epochs=1")])
    for name in run.tables:
        check_equal(run.folder / "strategies" / name)
    assert not list((tmp_path / "elsewhere").iterdir())
    folder = run.folder / "strategies" / "replay"
    config, metrics = opening(folder)
    assert config["training.epochs"] == 1
    assert config["strategy.learner.0.name"] == "replay"
    assert config["model.hidden"] == [16]
    assert not any(key.startswith("strategies") for key in config)
    assert ("", "*", "event") in metrics
    assert run_record(offline(folder)).display_name == "tiny replay (training.epochs=1, seed=0)"
    heads, events = table(folder, "events")
    assert heads[:6] == ["event", "kind", "name", "samples", "scope", "keys"]
    assert [(e[1], e[4]) for e in events if e[1] == "forget"] == [("forget", "sample"), ("forget", "class")]
    assert [e[2] for e in events if e[1] == "learn"] == ["task-0", "task-1", "task-2"]
    charts = offline(folder) / "files" / "media" / "plotly" / "charts"
    (units,) = charts.glob("units_*.plotly.json")
    drawn = json.loads(units.read_text(encoding="utf-8"))["data"][0]
    scores = {
        (r.subject, str(r.event)): r.value for r in run.tables["replay"].select("accuracy") if "task" in r.subject
    }
    assert drawn["y"] == ["task-0", "task-1", "task-2"]
    assert drawn["z"] == [[scores.get((y, x)) for x in drawn["x"]] for y in drawn["y"]]
    assert list(charts.glob("requests_*.plotly.json"))
    in_summary = summary(folder)
    assert in_summary["seconds"] > 0
    assert not any("undefined" in key and not key.startswith("tables/") for key in in_summary)
    assert len(in_summary) < 350, "no key of a single request or unit"
    sent = {name: artifacts(run.folder / "strategies" / name) for name in run.tables}
    assert ["stream" in kinds for kinds in sent.values()] == [True, False], "stream and configuration are sent once"


@pytest.mark.nightly
def test_a_run_that_goes_on_keeps_its_name_and_wandbs_own_variables_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (("PROJECT", "p"), ("ENTITY", "me"), ("TAGS", "a,b"), ("NOTES", "why"), ("RUN_GROUP", "no")):
        monkeypatch.setenv(f"WANDB_{key}", value)
    import_module("wandb").teardown()  # it reads them once in a process
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "empty"]):
        subprocess.run([*git, *words], check=True, cwd=tmp_path / "elsewhere")
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], cwd=tmp_path / "elsewhere", text=True).strip()
    config = TINY | {"references": {"kinds": []}}  # what references rest on is gone when a run is finished
    run = lifelong.run(parse(RunConfig, config), tmp_path / "runs", [WandbTracker(point="width=16")])
    for name in run.tables:
        (run.folder / "strategies" / name / "done.json").unlink()
    run = lifelong.resume(run.folder, [WandbTracker(Place(project="not this"))])
    sent = run_record(offline(run.folder / "strategies" / "naive"))
    assert (sent.project, sent.entity, list(sent.tags), sent.notes) == ("p", "me", ["a", "b"], "why")
    assert sent.display_name == "tiny naive (width=16, seed=0)"
    assert sent.run_group == run.folder.name
    assert sent.git.commit == commit
    lived = [
        items["event/seconds"] for items in history(run.folder / "strategies" / "naive") if "event/seconds" in items
    ]
    assert len(lived) == 5
    assert min(lived) > 0, "also of events before it went on"


@pytest.mark.nightly
def test_a_strategy_that_diverges_is_an_alert(tmp_path: Path) -> None:
    diverges = TINY | {"training": {"epochs": 1, "lr": 1e30}, "references": {"kinds": []}}
    with pytest.raises(TrainingError):
        lifelong.run(parse(RunConfig, diverges), tmp_path / "runs", [WandbTracker()])
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    for name in TINY["strategies"]:
        sent = records(offline(folder / "strategies" / name))
        (alert,) = (r.alert for r in sent if r.WhichOneof("record_type") == "alert")
        assert alert.title == f"{name} diverged"
        assert alert.level == "ERROR"
        assert next(r.exit.exit_code for r in sent if r.WhichOneof("record_type") == "exit") == 1


@pytest.mark.nightly  # runs that are killed are tested without W&B by default
def test_a_killed_run_that_goes_on_is_complete(tmp_path: Path) -> None:
    """The killed process has rows that never reached the offline file; going on brings them."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(config=TINY, root=str(tmp_path / "runs")), encoding="utf-8")
    killed = subprocess.run([sys.executable, str(script)], check=False, cwd=tmp_path / "elsewhere", env=environment())
    assert killed.returncode == -signal.SIGKILL
    folder = next((tmp_path / "runs").glob("tiny-*"))
    assert not (folder / "strategies" / "naive" / "done.json").exists()
    run = lifelong.resume(folder, [WandbTracker()])
    assert run.done
    for name in run.tables:
        check_equal(folder / "strategies" / name)


@pytest.mark.nightly
def test_images_are_sent_where_a_run_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_judge, "STEPS", 5)
    config = {
        **TINY,
        "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "class", "keys": [1]}]},
        "objective": {"name": "denoising", "steps": 2},
        "model": {"name": "mlp-denoiser", "width": 8, "blocks": 1},
        "strategies": {"naive": {"unlearner": "none"}},
        "references": {"kinds": ["retrained"]},
        "evaluation": {"audits": [{"name": "images", "per_prompt": 1, "least_accuracy": 0.0}]},
        "recording": {"keep": "images"},
    }
    run = lifelong.run(parse(RunConfig, config), tmp_path / "runs", [WandbTracker()])
    sent = sorted(p.name.partition("_")[0] for p in run.folder.rglob("media/images/images/*.png"))
    assert sent == ["retrained"] * 2 + ["run"] * 3, "before the request, after it, and at the end"


def test_a_worker_ends_after_wandb_has_written_its_files(tmp_path: Path) -> None:
    """W&B's own process ends with the one that started it, and `atexit` is not called in workers."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], check=True, env=environment(), capture_output=True, text=True)
    assert done.stdout.split() == ["started", "started", "written"]


def test_a_finished_run_starts_nothing(tmp_path: Path) -> None:
    run = lifelong.run(parse(RunConfig, TINY), tmp_path / "runs")
    lifelong.run(parse(RunConfig, TINY), tmp_path / "runs", [WandbTracker()])
    assert not list(run.folder.rglob("*.wandb"))


def test_a_server_that_nobody_answers_for_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run = lifelong.run(parse(RunConfig, TINY), tmp_path / "runs", [WandbTracker()])
    check_equal(run.folder / "strategies" / "naive")
    assert "cannot be reached" in caplog.text


def test_the_mode_needs_a_key_unless_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert mode_wanted() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_wanted() == "disabled"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert mode_wanted() == "offline"
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "a" * 40, encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setattr("lifelong.trackers._server._reachable", lambda server: True)
    assert mode_wanted() == "online"


def test_flatten_leaves_nothing_out() -> None:
    nested = {"a": {}, "b": [], "c": None, "d": [[1], {"e": 2}]}
    assert flatten(nested) == {"a": {}, "b": [], "c": None, "d.0": [1], "d.1.e": 2}


@pytest.mark.nightly
def test_a_study_is_a_group_with_its_outcome(tmp_path: Path) -> None:
    base = {k: v for k, v in TINY.items() if k not in {"name", "strategies"}}
    claims = {"name": "shared", "claim": "it is seen", "seeds": 1, "base": base, "strategies": TINY["strategies"]}
    criterion = {"name": "c", "metric": "average_accuracy", "of": "replay", "minus": "naive", "above": 0.0}
    study = lifelong.Study(claims | {"criteria": [criterion]}, root=tmp_path / "runs")
    assert [r.error for r in study.run(wandb=True)] == [None, None]
    page = tmp_path / "report.html"
    page.write_text("<p>found</p>")
    share(study, page)
    folders = [f for f in tmp_path.rglob("offline-run-*") if f.is_dir()]
    opened = [run_record(f) for f in folders]
    assert {r.run_group for r in opened} == {study.folder.name}
    assert {r.display_name for r in opened} == {"shared naive (seed=0)", "shared replay (seed=0)", "study shared"}
    assert len({r.run_id for r in opened}) == 3
    tables = {f.name.split("_")[0] for folder in folders for f in folder.rglob("*.table.json")}
    assert tables == {"events", "requests", "units", "undefined", "verdicts", "comparisons"}
    (last,) = (f for f, r in zip(folders, opened, strict=True) if r.job_type == "study")
    assert "report" in artifacts(last.parent.parent)
    assert list(last.rglob("report_*.html"))


@pytest.mark.nightly  # a whole run of the command and its page, sent
def test_the_documented_sweep_finds_its_metric_and_every_strategy_is_a_run_of_its_own(tmp_path: Path) -> None:
    """What an agent would start by the sweep file in docs/tracking.md, as it would, on a small scenario."""
    file = tmp_path / "tiny.yaml"
    strategies = {"naive-none": TINY["strategies"]["naive"], "replay-finetune": TINY["strategies"]["replay"]}
    file.write_text(json.dumps(TINY | {"strategies": strategies}))
    page = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text(encoding="utf-8")
    sweep = yaml.safe_load(page.partition("```yaml\n# sweep.yaml")[2].partition("```")[0].partition("\n")[2])
    drawn = {
        key: p["values"][1] if "values" in p else (p["min"] + p["max"]) / 2 for key, p in sweep["parameters"].items()
    }
    stands_for = {"${env}": [], "${args}": [f"--{key}={value}" for key, value in drawn.items()]}
    program = {"lifelong": [sys.executable, "-c", "from cli.main import main; main()"], "quickstart": [str(file)]}
    command = [word for part in sweep["command"] for word in (stands_for | program).get(part, [part])]
    chosen = tmp_path / "config-agent001.yaml"
    chosen.write_text(yaml.safe_dump({"wandb_version": 1} | {key: {"value": value} for key, value in drawn.items()}))
    agent = {
        "WANDB_SWEEP_ID": "sw123",
        "WANDB_RUN_ID": "agent001",
        "WANDB_SWEEP_PARAM_PATH": str(chosen),
        "WANDB_PROJECT": sweep["project"],
    }
    done = subprocess.run(
        [*command, "--quiet"], check=False, cwd=tmp_path / "elsewhere", env=environment() | agent, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "elsewhere" / "runs").iterdir()
    identity = folder.name.rpartition("-")[2]
    for name in strategies:
        check_equal(folder / "strategies" / name)
        sent = run_record(offline(folder / "strategies" / name))
        assert (sent.run_id, sent.sweep_id, sent.job_type) == (f"{identity}-{name}", "", "run")
        assert sent.run_group == folder.name
        config = opening(folder / "strategies" / name)[0]
        assert {key: config[key] for key in drawn} == drawn
        assert config["sweep"] == "sw123"
    trial = run_record(offline(folder))
    assert (trial.run_id, trial.sweep_id, trial.job_type) == ("agent001", "sw123", "trial")
    assert trial.run_group == folder.name
    found = summary(folder)[sweep["metric"]["name"]]
    last = lifelong.load_run(folder).tables["replay-finetune"].last("average_accuracy", "stream")
    assert last is not None
    assert found == last.value
    assert "report" in artifacts(folder)
    (html,) = (offline(folder) / "files" / "media" / "html").glob("report_*.html")
    assert "plotly" in html.read_text(encoding="utf-8")


def tracker_of_the_docs(folder: Path) -> Path:
    """Write the tracker that docs/tracking.md shows."""
    page = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text(encoding="utf-8")
    file = folder / "to_mlflow.py"
    file.write_text(page.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    return file


def test_a_tracker_of_ones_own_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that docs/tracking.md shows, with a package in MLflow's place that notes what it is told."""
    file = tracker_of_the_docs(tmp_path)
    told: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def noted(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: told.append((name, args, kwargs))

    functions = ("set_experiment", "start_run", "log_params", "log_dict", "log_metrics", "set_tag", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(**{name: noted(name) for name in functions}))
    config = TINY | {"strategies": {"naive": {"unlearner": "none"}}, "references": {"kinds": []}}
    run = lifelong.run(parse(RunConfig, config), tmp_path / "runs", [load_tracker(str(file))])
    names = [name for name, _, _ in told]
    assert names[:2] == ["set_experiment", "start_run"]
    assert names[-1] == "end_run"
    calls = [(args[0], kwargs["step"]) for name, args, kwargs in told if name == "log_metrics"]
    sent = {(key, step): value for values, step in calls for key, value in values.items()}
    rows = {
        (f"run/{r.subject}/{r.metric}", r.event): r.value
        for r in run.tables["naive"].rows
        if r.value is not None and r.subject in ("stream", "requests")
    }
    assert {key: value for key, value in sent.items() if key[0] != "seconds"} == rows
    assert [step for key, step in sent if key == "seconds"] == [0, 1, 2, 3, 4]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # of MLflow's own dependencies
def test_the_tracker_of_the_docs_in_a_real_mlflow(tmp_path: Path) -> None:
    """A run each, with every number; one that went on is one run; one that diverged has failed."""
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow (pip install mlflow)")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    file = str(tracker_of_the_docs(tmp_path))
    config = parse(RunConfig, TINY)
    whole = lifelong.run(config, tmp_path / "whole", [load_tracker(file)])

    class Stops(Tracker):
        """Ends the run in the middle of its second strategy."""

        def __init__(self) -> None:
            self.strategies: list[str] = []

        def begin(self, info: RunInfo, first_event: int) -> None:
            self.strategies.append(info.strategy)

        def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
            if self.strategies == ["naive", "replay"] and index == 2:
                raise KeyboardInterrupt

    stopped = config.model_copy(update={"name": "stopped"})
    with pytest.raises(KeyboardInterrupt):
        lifelong.run(stopped, tmp_path / "runs", [load_tracker(file), Stops()])
    resumed = lifelong.run(stopped, tmp_path / "runs", [load_tracker(file)])
    client = mlflow.MlflowClient()
    for run, told in ((whole, "tiny"), (resumed, "stopped")):
        found = mlflow.search_runs(experiment_names=[told], output_format="list")
        assert sorted(r.data.tags["strategy"] for r in found) == ["naive", "replay"]
        sent = {r.data.tags["strategy"]: r for r in found}
        for name, table in run.tables.items():
            assert sent[name].info.status == "FINISHED"
            assert sent[name].data.params == {"seed": "0", "model": "mlp"}
            rows: dict[str, dict[int, float]] = {}
            for r in table.rows:
                if r.value is not None and r.subject in ("stream", "requests"):
                    rows.setdefault(f"{r.model}/{r.subject}/{r.metric}", {})[r.event] = r.value
            assert {"run", "retrained"} <= {key.partition("/")[0] for key in rows}
            for key, values in rows.items():
                history = client.get_metric_history(sent[name].info.run_id, key)
                assert {m.step: m.value for m in history} == values, key
    diverges = TINY | {"name": "diverges", "training": {"epochs": 1, "lr": 1e30}, "references": {"kinds": []}}
    with pytest.raises(TrainingError):
        lifelong.run(parse(RunConfig, diverges), tmp_path / "runs", [load_tracker(file)])
    failed = mlflow.search_runs(experiment_names=["diverges"], output_format="list")
    assert {r.info.status for r in failed} == {"FAILED"}
    assert all("error" in r.data.tags for r in failed)


def test_a_file_without_a_tracker_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text('"""Nothing."""\n')
    with pytest.raises(ConfigError, match="exactly one public class that derives from Tracker"):
        load_tracker(str(file))
    with pytest.raises(ConfigError, match=r"--tracker: 'mlflow' is not known.*Allowed: console, wandb"):
        load_tracker("mlflow")


def test_numbers_of_single_things_are_cut_into_tables_that_wandb_keeps_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifelong.trackers._wide.MOST_ROWS", 2)
    wide = Wide(["task-0"])
    wide.add([Row(e, "run", "task-0", "accuracy", e / 4, 1) for e in range(3)])
    wide.add([Row(1, "run", "request-0", "js", None, 0, "why"), Row(1, "run", "stream", "plasticity", None, 0, "so")])
    assert dict(wide.tables()) == {
        "units": (["event", "model", "unit", "accuracy"], [[0, "run", "task-0", 0.0], [1, "run", "task-0", 0.25]]),
        "units-2": (["event", "model", "unit", "accuracy"], [[2, "run", "task-0", 0.5]]),
        "requests": (["event", "model", "request", "js"], [[1, "run", "request-0", None]]),
        "undefined": (
            ["event", "model", "subject", "metric", "reason"],
            [[1, "run", "request-0", "js", "why"], [1, "run", "stream", "plasticity", "so"]],
        ),
    }


def test_a_chart_of_many_events_or_requests_ends_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifelong.trackers._charts.MOST_EVENTS", 3)
    figure = units_chart({"a": {event: event / 10 for event in range(8)}}, "accuracy")
    assert list(figure.data[0].x) == ["1", "4", "7"]
    assert list(figure.data[0].z[0]) == [0.1, 0.4, 0.7]
    monkeypatch.setattr("lifelong.trackers._charts.MOST_REQUESTS", 2)
    figure = requests_chart({f"request-{n}": {n + 1: 0.5, n: 1.0} for n in range(4)}, "accuracy")
    assert [line.name for line in figure.data] == ["request-1", "request-3"]
    assert (list(figure.data[1].x), list(figure.data[1].y)) == ([3, 4], [1.0, 0.5])


def test_what_cannot_be_shared_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lifelong.study.share.Server.start", lambda *_, **__: 1 / 0)
    share(lifelong.Study({"name": "s", "claim": "c", "base": "quickstart", "seeds": 1}, root=tmp_path))
    assert "could not be sent" in caplog.text


WORKER = """
import multiprocessing, sys, types
from pathlib import Path
from lifelong.trackers._server import Server

def work():
    for name in "ab":
        Server().start(Path(), id=name, group="g", name="n", job_type="run", config={})

sys.modules["wandb"] = types.SimpleNamespace(
    Settings=dict, init=lambda **_: print("started", flush=True), teardown=lambda: print("written", flush=True)
)
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
"""
KILLED = """
import os, signal
import lifelong
from lifelong.config.run import RunConfig
from lifelong.trackers.wandb import WandbTracker
from streams.config import parse

class Killer:
    def begin(self, info, first_event): pass
    def event(self, index, rows, seconds):
        if index == 3: os.kill(os.getpid(), signal.SIGKILL)
    def references(self, rows, seconds): pass
    def failed(self, error): pass
    def end(self): pass

lifelong.run(parse(RunConfig, {config!r}), {root!r}, [WandbTracker(), Killer()])
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(lifelong.__file__).parent.parent)}


def check_equal(folder: Path) -> None:
    """Every row of the run is in the one offline file or in one of its tables, once, with the same bits; no more."""
    rows = read_rows(folder / "results.jsonl")
    assert {r.subject for r in rows} >= {"stream", "event", "requests", "task-0", "request-0"}
    assert {r.model for r in rows} == {"run", "retrained", "withheld"}
    assert None in {r.value for r in rows}
    whole = {"stream", "event", "requests"}
    curves: dict[tuple[int, str], float | None] = {}
    for items in history(folder):
        event = int(items.pop("event"))
        for key, value in items.items():
            if not key.startswith(("_", "tables/", "charts/")) and key != "event/seconds":
                assert (event, key) not in curves
                curves[event, key] = None if value is None else float(value)
    assert curves == {(r.event, key_of(r)): r.value for r in rows if r.subject in whole}
    cells: dict[tuple[int, str, str, str], float] = {}
    for kind in ("requests", "units"):
        heads, lines = table(folder, kind)
        assert heads[:3] == ["event", "model", kind[:-1]]
        for line in lines:
            for metric, value in zip(heads[3:], line[3:], strict=True):
                if value is not None:
                    assert (*line[:3], metric) not in cells
                    cells[*line[:3], metric] = value
    single = [r for r in rows if r.subject not in whole]
    assert cells == {(r.event, r.model, r.subject, r.metric): r.value for r in single if r.value is not None}
    _, reasons = table(folder, "undefined")
    expected = [[r.event, r.model, r.subject, r.metric, r.reason] for r in rows if r.value is None]
    assert sorted(reasons) == sorted(expected)


def key_of(r: Row) -> str:
    return f"{r.subject}/{r.metric}" if r.model == "run" else f"{r.model}/{r.subject}/{r.metric}"


def offline(folder: Path) -> Path:
    """The offline folder of a strategy, a run or a study; a killed process may leave one behind, late."""
    return max(f for f in (folder / "wandb").glob("offline-run-*") if f.is_dir())


def table(folder: Path, name: str) -> tuple[list[str], list[list[Any]]]:
    (file,) = (offline(folder) / "files" / "media" / "table" / "tables").glob(f"{name}_*.table.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    return content["columns"], content["data"]


def history(folder: Path) -> Iterator[dict]:
    for record in records(offline(folder)):
        if record.WhichOneof("record_type") == "history":
            yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def summary(folder: Path) -> dict[str, Any]:
    """What stands in the summary at the end: the last value of every key, unless it was set."""
    last: dict[str, Any] = {}
    for record in records(offline(folder)):
        if record.WhichOneof("record_type") == "history":
            last |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        elif record.WhichOneof("record_type") == "summary":
            last |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
    return last


def opening(folder: Path) -> tuple[dict[str, object], set[tuple[str, str, str]]]:
    """Return config and defined metrics."""
    config: dict[str, object] = {}
    metrics = set()
    for record in records(offline(folder)):
        if record.WhichOneof("record_type") == "run":
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif record.WhichOneof("record_type") == "metric":
            metrics.add((record.metric.name, record.metric.glob_name, record.metric.step_metric))
    return config, metrics


def records(folder: Path) -> list[Any]:
    """All records of an offline folder. W&B's own process writes the file out after `finish` has returned.

    That a run is over is the last thing it writes, so until that is there, so may be records before it.
    """
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 120
    while True:
        found = []
        for content in leveldb_log(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            found.append(record)
        if any(r.WhichOneof("record_type") == "exit" for r in found):
            return found
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.05)


def artifacts(folder: Path) -> set[str]:
    """The types of what is sent as files; tables are, too."""
    found = set()
    for record in records(offline(folder)):
        if record.WhichOneof("record_type") == "artifact":
            found.add(record.artifact.type)
        elif record.request.WhichOneof("request_type") == "log_artifact":
            found.add(record.request.log_artifact.artifact.type)
    return found


def run_record(folder: Path) -> Any:
    """The record of the run of an offline folder."""
    return next(r.run for r in records(folder) if r.WhichOneof("record_type") == "run")


def leveldb_log(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    data, at, record = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            return
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield record
            record = b""
