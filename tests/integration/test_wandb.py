"""The real wandb package, offline: what it wrote, read back, is what the run folder holds."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.audits import _judge
from lifelong.config.run import RunConfig
from lifelong.results.table import read_rows
from lifelong.study.share import share
from lifelong.trackers.wandb import WandbTracker, _mode, flatten
from streams.config import parse

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
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "elsewhere")


def test_offline_files_hold_the_rows_of_the_run(tmp_path: Path) -> None:
    run = lifelong.run(parse(RunConfig, TINY), tmp_path / "runs", [WandbTracker()])
    for name in run.tables:
        check_equal(run.folder / "strategies" / name)
    assert not list((tmp_path / "elsewhere").iterdir())
    config, metrics = opening(run.folder / "strategies" / "replay")
    assert config["training.epochs"] == 1
    assert config["strategy.learner.0.name"] == "replay"
    assert config["model.hidden"] == [16]
    assert not any(key.startswith("strategies") for key in config)
    assert ("", "*", "event") in metrics


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
    assert _mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert _mode() == "disabled"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert _mode() == "offline"
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "a" * 40, encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setattr("lifelong.trackers.wandb._reachable", lambda server: True)
    assert _mode() == "online"


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
    assert {r.display_name for r in opened} == {"naive (seed=0)", "replay (seed=0)", "study shared"}
    assert len({r.run_id for r in opened}) == 3
    tables = {f.name.split("_")[0]: f for folder in folders for f in folder.rglob("*.table.json")}
    assert set(tables) == {"deletions", "scores", "verdicts", "comparisons"}
    deletions = json.loads(tables["deletions"].read_text())
    assert deletions["columns"] == ["event", "name", "scope", "keys", "samples", "received"]
    assert [row[2] for row in deletions["data"]] == ["sample", "class"]
    scores = json.loads(tables["scores"].read_text())
    assert scores["columns"] == ["event", "task-0", "task-1", "task-2"]
    assert [row[0] for row in scores["data"]] == [0, 1, 2, 3, 4]
    kinds = {r.WhichOneof("record_type") for f in folders for r in records(f)} | {
        r.request.WhichOneof("request_type") for f in folders for r in records(f)
    }
    assert "artifact" in kinds or "log_artifact" in kinds


@pytest.mark.nightly  # a whole run of the command and its page, sent
def test_the_documented_sweep_finds_its_metric_and_the_report_is_sent_too(tmp_path: Path) -> None:
    """What an agent would start by the sweep file in docs/studies.md, on a small scenario."""
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(TINY))
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    sweep = yaml.safe_load(page.partition("```yaml\n# sweep.yaml")[2].partition("```")[0].partition("\n")[2])
    drawn = {
        key: p["values"][1] if "values" in p else (p["min"] + p["max"]) / 2 for key, p in sweep["parameters"].items()
    }
    stands_for = {"${env}": [], "${args}": [f"--{key}={value}" for key, value in drawn.items()]}
    program = {"lifelong": [sys.executable, "-c", "from cli.main import main; main()"], "quickstart": [str(file)]}
    command = [word for part in sweep["command"] for word in (stands_for | program).get(part, [part])]
    done = subprocess.run(
        [*command, "--quiet"], check=False, cwd=tmp_path / "elsewhere", env=environment(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "elsewhere" / "runs").iterdir()
    (sent,) = (f for f in (folder / "wandb").glob("offline-run-*") if f.is_dir())
    assert run_record(sent).run_group == folder.name
    strategy = folder / "strategies" / "replay"
    assert {k: v for k, v in opening(strategy)[0].items() if k in drawn} == drawn
    assert sweep["metric"]["name"] in [key for items in history(strategy) for key in items]
    assert "artifact" in {r.WhichOneof("record_type") for r in records(sent)} | {
        (r.request.WhichOneof("request_type") or "").removeprefix("log_") for r in records(sent)
    }


def test_what_cannot_be_shared_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lifelong.study.share.Server.start", lambda *_, **__: 1 / 0)
    share(lifelong.Study({"name": "s", "claim": "c", "base": "quickstart", "seeds": 1}, root=tmp_path))
    assert "could not be sent" in caplog.text


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
    def end(self): pass

lifelong.run(parse(RunConfig, {config!r}), {root!r}, [WandbTracker(), Killer()])
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(lifelong.__file__).parent.parent)}


def check_equal(folder: Path) -> None:
    """Every row of the table is in the one offline file, once, with the same bits; and nothing else is."""
    expected: dict[tuple[int, str], float | None] = {}
    for r in read_rows(folder / "results.jsonl"):
        key = (r.event, f"{r.subject}/{r.metric}" if r.model == "run" else f"{r.model}/{r.subject}/{r.metric}")
        assert key not in expected
        expected[key] = r.value
    assert {key[1].split("/")[0] for key in expected} >= {"stream", "event", "requests", "retrained", "withheld"}
    assert None in expected.values()
    found: dict[tuple[int, str], float | None] = {}
    reasons = set()
    for items in history(folder):
        event = int(items.pop("event"))
        for key, value in items.items():
            if key.startswith("undefined/"):
                reasons.add((event, key.removeprefix("undefined/")))
            elif not key.startswith(("_", "tables/")):
                assert (event, key) not in found
                found[event, key] = None if value is None else float(value)
    assert found == expected
    assert reasons == {key for key, value in expected.items() if value is None}


def history(folder: Path) -> Iterator[dict]:
    from wandb.proto import wandb_internal_pb2

    file = max(folder.glob("wandb/offline-run-*/*.wandb"))  # a killed process may leave one behind, late
    for content in leveldb_log(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def opening(folder: Path) -> tuple[dict[str, object], set[tuple[str, str, str]]]:
    """Return config and defined metrics."""
    from wandb.proto import wandb_internal_pb2

    config: dict[str, object] = {}
    metrics = set()
    file = max(folder.glob("wandb/offline-run-*/*.wandb"))  # a killed process may leave one behind, late
    for content in leveldb_log(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "run":
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif record.WhichOneof("record_type") == "metric":
            metrics.add((record.metric.name, record.metric.glob_name, record.metric.step_metric))
    return config, metrics


def records(folder: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    for content in leveldb_log(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        yield record


def run_record(folder: Path) -> Any:
    """The record of the run; W&B's own process may write it a moment after `finish` on a busy machine."""
    deadline = time.monotonic() + 30
    while True:
        found = [r.run for r in records(folder) if r.WhichOneof("record_type") == "run"]
        if found:
            return found[0]
        assert time.monotonic() < deadline, f"no run in {folder}"
        time.sleep(0.2)


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
