"""A run that is stopped or killed within an event goes on from a step of it, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import lifelong
from lifelong.execution.traces import traces
from lifelong.results.record import Within
from lifelong.setup.preparation import prepare
from strategies.parts.model import digest
from strategies.parts.passes import Passes

ROOT = Path(__file__).parents[2]


def config(**changes: Any) -> Any:
    """Two experiences of some hundred steps, watched on the way, and a request that trains twice."""
    return lifelong.RunConfig.model_validate(
        {
            "name": "stopped",
            "source": "digits",
            "scenario": {"name": "class-incremental", "experiences": 2},
            "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "sample", "count": 20}]},
            "model": {"name": "mlp", "hidden": [16]},
            "training": {"epochs": 2, "batch_size": 64, "lr": 0.05, "momentum": 0.5},
            "strategies": {"mine": {"learner": "si", "unlearner": "retrain"}},
            "evaluation": {"dense_every": 5},
            "references": {"kinds": []},
            "recording": {"checkpoint_minutes": 0},
        }
        | changes
    )


def result_of(folder: Path) -> dict[str, Any]:
    life = folder / "strategies" / "mine"
    (last,) = life.glob("checkpoints/event-*.pt")
    files: dict[str, Any] = {n: (life / n).read_bytes() for n in ("results.jsonl", "scores.bin", "losses.bin")}
    return files | {"state": digest(torch.load(last, weights_only=True)["state"])}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nobody stopped."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(home / "cache"))
        run = lifelong.run(config(), home)
    assert not list(run.folder.rglob("within/*/*"))
    return result_of(run.folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were taken, by their number in their training."""
    taken: list[int] = []
    done = Passes.done

    def noted(self: Passes, loss: torch.Tensor) -> None:
        taken.append(self.number)
        done(self, loss)

    monkeypatch.setattr(Passes, "done", noted)
    return taken


def killed_after(writes: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run until so many states within events are written, and return the folder."""
    left, write = writes, Within.write

    def counted(self: Within, number: int, state: Any) -> None:
        nonlocal left
        write(self, number, state)
        left -= 1
        if left == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Within, "write", counted)
        with pytest.raises(Killed):
            lifelong.run(config(), root)
    (folder,) = root.glob("stopped-*")
    return folder


@pytest.mark.parametrize("writes", [7, *(pytest.param(n, marks=pytest.mark.nightly) for n in (40, 61))])
def test_killed_within_an_event(
    writes: int, whole: dict[str, Any], steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_after(writes, tmp_path, monkeypatch)
    last = steps[-1]
    steps.clear()
    assert lifelong.resume(folder).done
    assert steps[0] == last + 1, "the training goes on with the step after the one that was kept"
    assert result_of(folder) == whole
    assert not list(folder.rglob("within/*/*"))


def test_a_state_that_is_damaged_is_not_used(
    whole: dict[str, Any],
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = killed_after(7, tmp_path, monkeypatch)
    (file,) = folder.rglob("within/*/*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    steps.clear()
    assert lifelong.resume(folder).done
    assert "that training begins again" in caplog.text
    assert steps[0] == 0
    assert result_of(folder) == whole


def test_what_is_kept_within_an_event_is_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = killed_after(7, tmp_path, monkeypatch)
    first, second = (e.sample_ids[0] for e in prepare(config()).stream.experiences)
    assert [bool([t for t in traces(folder, int(s)) if "within" in t.file.parts]) for s in (first, second)] == [1, 0]


LONG = config(recording={"checkpoint_minutes": None}, training={"epochs": 4000, "batch_size": 64, "lr": 0.01})
LONG_RUN = LONG.model_dump(mode="json", exclude_unset=True)
STUDY = {
    "name": "stopped",
    "claim": "it may be stopped",
    "base": {key: value for key, value in LONG_RUN.items() if key not in ("name", "strategies")},
    "strategies": LONG_RUN["strategies"],
    "seeds": 1,
}


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("run", LONG_RUN),
        pytest.param("study --workers 1", STUDY, marks=pytest.mark.nightly),
        pytest.param("study --job 0", STUDY, marks=pytest.mark.nightly),
    ],
)
def test_what_is_asked_to_stop_keeps_its_step(command: str, content: dict[str, Any], tmp_path: Path) -> None:
    """With SIGTERM, twice as some schedulers send it, and no other reason to keep anything."""
    file = tmp_path / "file.yaml"
    file.write_text(json.dumps(content))
    name, *options = command.split()
    arguments = ["-c", "from cli.main import main; main()", name, str(file), "--runs", str(tmp_path / "runs"), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 120
        while not list((tmp_path / "runs").rglob("checkpoints/event-000000.pt")):
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.5)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "saved" in errors
    (kept,) = (tmp_path / "runs").rglob("within/*/*.pt")
    assert torch.load(kept, weights_only=True)["state"]["parts"][0]["number"] > 0
