"""Attacks on what lies on disk: flipped bits, cut and edited files, a full disk, states that no file can hold."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.report.gathering import gather_lives
from lifelong.results.record import Record
from lifelong.study.jobs import execute
from lifelong.study.study import Study, resume_study
from strategies.composed import Composed
from streams.errors import CheckpointError, LifelongError
from streams.files import write_cached

ROOT = Path(__file__).parents[2]
LIFE = "strategies/replay-none"


def config(**changes: Any) -> Any:
    """Learn, learn, forget (event 2), learn, learn; a fraction of a second."""
    data = {
        "name": "attacked",
        "scenario": {"name": "class-incremental", "experiences": 4},
        "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "sample", "count": 10}]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.05},
        "strategies": {"replay-none": {"learner": {"name": "replay", "memory": 50}, "unlearner": "none"}},
        "references": {"kinds": []},
        "recording": {"keep": "all"},
    }
    return lifelong.RunConfig.model_validate(data | changes)


def content_of(folder: Path) -> dict[str, bytes]:
    kept = [f for f in sorted((folder / LIFE).rglob("*")) if f.suffix in {".bin", ".npz", ".jsonl"}]
    return {str(f.relative_to(folder)): f.read_bytes() for f in kept if f.name != "timings.jsonl"}


class Stop(BaseException):
    """The process ends here."""


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lifelong.Run:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    return lifelong.run(config(), tmp_path / "whole")


@pytest.fixture
def stop_after(whole: lifelong.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Stop the run right after an event is saved; every checkpoint is written that may be."""

    def stopped(event: int) -> Path:
        save = Record.save

        def stop(self: Record, checkpoint: Any, must: bool) -> None:
            save(self, checkpoint, must)
            if checkpoint.event == event:
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr("lifelong.results.record._PATIENCE", 0.0)
            patch.setattr(Record, "save", stop)
            with pytest.raises(Stop):
                lifelong.run(config(), tmp_path / "runs", fresh=True)
        return tmp_path / "runs" / whole.folder.name

    return stopped


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / LIFE / "checkpoints").iterdir())


def flip(file: Path, at: int, bit: int = 3) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


def a_weight(file: Path) -> int:
    """Where in a checkpoint a weight of the model lies."""
    content = torch.load(file, weights_only=True)
    tensors: list[torch.Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, dict):
            [collect(v) for v in value.values()]

    collect(content["state"])
    largest = max((t for t in tensors if t.is_floating_point()), key=lambda t: t.numel())
    place = file.read_bytes().find(largest.numpy().tobytes()[:64])
    assert place > 0
    return place + 41  # of a float in the middle of the sample, a bit that counts


def test_a_flipped_bit_in_a_weight_is_noticed(
    stop_after: Callable[[int], Path], whole: lifelong.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = stop_after(3)
    older, newest = checkpoints(folder)
    flip(newest, a_weight(newest))
    assert torch.load(newest, weights_only=True)["event"] == 3  # torch takes it for content
    lifelong.resume(folder)
    assert content_of(folder) == content_of(whole.folder)
    (warning,) = caplog.messages
    assert newest.name in warning
    assert older.name in warning


def test_a_flipped_bit_anywhere_changes_no_result(
    stop_after: Callable[[int], Path], whole: lifelong.Run, tmp_path: Path
) -> None:
    expected = content_of(whole.folder)
    folder = stop_after(3)
    shutil.copytree(folder, tmp_path / "kept")
    size = checkpoints(folder)[-1].stat().st_size
    for part in range(0, 12, 3):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
        flip(checkpoints(folder)[-1], (2 * part + 1) * size // 24, part % 8)
        lifelong.resume(folder)
        assert content_of(folder) == expected


def test_the_only_checkpoint_with_a_flipped_bit_is_refused(stop_after: Callable[[int], Path]) -> None:
    folder = stop_after(2)  # after a request no older one is kept
    (only,) = checkpoints(folder)
    flip(only, a_weight(only))
    with pytest.raises(CheckpointError, match=r"event-000003.*corrupt.*--fresh"):
        lifelong.resume(folder)


@pytest.mark.parametrize("name", ["results.jsonl", "scores.bin", "losses.bin", "details/event-000002.npz"])
def test_an_edit_before_the_checkpoint_is_refused(name: str, stop_after: Callable[[int], Path]) -> None:
    folder = stop_after(2)
    file = folder / LIFE / name
    flip(file, file.stat().st_size // 2, 0)
    with pytest.raises(
        CheckpointError, match=rf"{name.split('/')[0]}.*damaged(, edited or removed| or edited).*--fresh"
    ):
        lifelong.resume(folder)


def test_an_edit_behind_the_older_checkpoint_costs_an_event(
    stop_after: Callable[[int], Path], whole: lifelong.Run, caplog: pytest.LogCaptureFixture
) -> None:
    folder = stop_after(3)
    scores = folder / LIFE / "scores.bin"
    flip(scores, scores.stat().st_size - 2)
    lifelong.resume(folder)
    assert content_of(folder) == content_of(whole.folder)
    assert "scores.bin" in caplog.text


def cut_a_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))


def edit_a_digit(file: Path) -> None:
    text = file.read_text()
    at = text.index('"value": 0.') + len('"value": 0.')
    file.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


ATTACKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "cut rows": ("results.jsonl", cut_a_line),
    "edited rows": ("results.jsonl", edit_a_digit),
    "no rows": ("results.jsonl", Path.unlink),
    "edited losses": ("losses.bin", lambda file: flip(file, 100)),
    "edited columns": ("columns.bin", lambda file: flip(file, file.stat().st_size - 30)),
    "edited details": ("details/event-000002.npz", lambda file: flip(file, 200)),
    "edited weights": ("checkpoints/event-000005.pt", lambda file: flip(file, a_weight(file))),
    "cut seconds": ("timings.jsonl", cut_a_line),
    "edited summary": ("done.json", lambda file: file.write_text(file.read_text().replace("buffer(50)", "nothing"))),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_finished_run_that_was_changed_is_not_read(
    attack: str, whole: lifelong.Run, call: Callable[..., tuple[int, str, str]]
) -> None:
    name, change = ATTACKS[attack]
    change(whole.folder / LIFE / name)
    with pytest.raises(CheckpointError, match=rf"{name}.*(--fresh|copy)"):
        lifelong.load_run(whole.folder)
    for command in ("report", "compare"):
        code, _, errors = call(command, str(whole.folder))
        assert code == 2
        assert name in errors


@pytest.mark.parametrize("name", ["config.yaml", "stream.json", "manifest.json"])
def test_what_a_run_says_of_itself_was_not_changed(name: str, whole: lifelong.Run) -> None:
    file = whole.folder / name
    written = file.read_bytes()
    for at, bit in ((len(written) // 3, 0), (len(written) - 8, 1)):
        flip(file, at, bit)
        with pytest.raises(LifelongError, match=name):
            lifelong.load_run(whole.folder)
        file.write_bytes(written)
    assert lifelong.load_run(whole.folder).done


def test_what_can_be_made_again_may_be_gone(whole: lifelong.Run) -> None:
    rows = whole.tables["replay-none"].rows
    (whole.folder / LIFE / "columns.bin").unlink()
    shutil.rmtree(whole.folder / LIFE / "details")
    assert lifelong.load_run(whole.folder).tables["replay-none"].rows == rows


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two runs, finished and judged."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    base = config().model_dump(mode="json", exclude={"name", "strategies", "seed"})
    strategies = {"replay-none": {"learner": {"name": "replay", "memory": 50}, "unlearner": "none"}}
    accuracy = {"metric": "average_accuracy", "of": "replay-none"}
    data = {"name": "s", "claim": "c", "base": base, "strategies": strategies, "seeds": 2}
    study = Study(data | {"criteria": [accuracy | {"name": "it learns", "above": 0.1}]}, root=tmp_path)
    for job in study.jobs:
        assert execute(job).error is None
    study.collect()
    return study


STUDY_ATTACKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "runs that were finished at the declaration": (
        "study.json",
        lambda file: edit(file, '"runs_done_when_declared": 2', '"runs_done_when_declared": 0'),
    ),
    "a criterion": ("study.json", lambda file: edit(file, '"above": 0.1', '"above": 0.2')),
    "half of a declaration": ("study.json", lambda file: file.write_bytes(file.read_bytes()[:300])),
    "a verdict": ("verdicts.json", lambda file: edit(file, '"bar": "', '"bar": "not ')),
    "a flipped bit": ("verdicts.json", lambda file: flip(file, file.read_bytes().index(b'"mean": ') + 11, 0)),
    "half of the verdicts": ("verdicts.json", lambda file: file.write_bytes(file.read_bytes()[:-30])),
}


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def test_what_a_study_declared_and_concluded_was_not_changed(
    study: Study, call: Callable[..., tuple[int, str, str]]
) -> None:
    for name, change in STUDY_ATTACKS.values():
        file = study.folder / name
        written = file.read_bytes()
        change(file)
        with pytest.raises(CheckpointError, match=rf"{name}.*Restore it from a copy"):
            resume_study(study.folder)
        for command in ("report", "study"):
            code, _, errors = call(command, str(study.folder))
            assert code == 2
            assert name in errors
        if name == "study.json":  # also where it is declared anew, by its file
            with pytest.raises(CheckpointError, match=name):
                Study(study.declared, root=study.folder.parent).run()
        file.write_bytes(written)
    assert resume_study(study.folder).outcome() == study.outcome()


def test_a_look_under_another_plan_is_not_hidden_by_damage(study: Study) -> None:
    more = Study(study.declared.model_copy(update={"seeds": (0, 1, 2)}), root=study.folder.parent)
    assert more.looked_before == (2,)
    edit(study.folder / "verdicts.json", '"runs_done": 2', '"runs_done": 0')
    with pytest.raises(CheckpointError, match=r"verdicts\.json"):
        _ = Study(more.declared, root=study.folder.parent).looked_before


def test_a_study_does_not_read_changed_runs(study: Study) -> None:
    gather_lives(study)
    for name in (f"{LIFE}/columns.bin", "stream.json"):
        file = study.jobs[1].folder / name
        written = file.read_bytes()
        flip(file, len(written) - 30)
        with pytest.raises(CheckpointError, match=rf"{name}.*edited"):
            gather_lives(study)
        file.write_bytes(written)


class FullDisk:
    """From the first event on, what is written into the folder of checkpoints meets a full disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, info: object, first_event: int) -> None: ...

    def event(self, index: int, rows: object, seconds: float) -> None:
        if index == 0:
            for number in range(2, 7):
                (folder,) = self.root.glob(f"*/{LIFE}/checkpoints")
                (folder / f".event-{number:06d}.pt.{os.getpid()}.part").symlink_to("/dev/full")

    def references(self, rows: object, seconds: float) -> None: ...

    def end(self) -> None: ...


def test_a_full_disk_while_a_checkpoint_is_written(
    whole: lifelong.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong.results.record._PATIENCE", 0.0)
    with pytest.raises(LifelongError, match=r"No space left on device.*Free some space.*nothing is lost"):
        lifelong.run(config(), tmp_path / "runs", [FullDisk(tmp_path / "runs")])
    again = lifelong.run(config(), tmp_path / "runs")
    assert content_of(again.folder) == content_of(whole.folder)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (np.zeros(3), r"state_dict\(\)\['learner'\]\['mine'\] is a numpy\.ndarray"),
        ([1, {"deep": np.float64(1.0)}], r"\['mine'\]\[1\]\['deep'\] is a numpy\.float64"),
        ({np.int64(3): 1}, r"the key .*3.* is a numpy\.int64"),
    ],
)
def test_a_state_that_cannot_be_saved_is_refused_at_once(
    value: Any, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    state = {"learner": {"mine": value}}
    monkeypatch.setattr(Composed, "state_dict", lambda self: state)
    with pytest.raises(CheckpointError, match=key):
        lifelong.run(config(), tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    assert checkpoints(folder) == []


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_run_that_goes_on(
    number: signal.Signals, whole: lifelong.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "attacked.yaml"
    shutil.copy(whole.folder / "config.yaml", file)
    slow = (
        "import time; from lifelong.execution.life import Life; step = Life._step; "
        "Life._step = lambda *a: (time.sleep(0.3), step(*a))[1]; from cli.main import main; main()"
    )
    command = [sys.executable, "-c", slow, "run", str(file), "--runs", str(tmp_path / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while (
            not list((tmp_path / "runs").glob(f"*/{LIFE}/checkpoints/event-*[1-9].pt")) and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Go on with:" in errors
    assert "Traceback" not in errors
    (folder,) = (tmp_path / "runs").iterdir()
    lifelong.resume(folder)
    assert content_of(folder) == content_of(whole.folder)


def test_fsync_is_waited_for_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    synced: list[str] = []
    real = os.fsync

    def fsync(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    plain = lifelong.run(config(), tmp_path / "runs")
    assert synced == []
    safe = lifelong.run(config(recording={"keep": "all", "fsync": True}), tmp_path / "runs")
    assert content_of(safe.folder) == content_of(plain.folder)
    names = {Path(name).name.split(".pt")[0].lstrip(".") for name in synced}
    assert {"event-000005", "results.jsonl", "scores.bin", "losses.bin", "checkpoints"} <= names
    assert any("done.json" in name for name in synced)
    assert json.loads((safe.folder / LIFE / "done.json").read_text())["files"]


def test_a_file_of_the_cache_that_was_being_written_does_not_stay(tmp_path: Path) -> None:
    """What a killed process leaves half-written is removed by who writes the file; what another one writes is not."""
    whole = tmp_path / "outputs.sealed"
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, written = (tmp_path / f".{whole.name}.{pid}.part" for pid in (dead.pid, os.getppid()))
    for half in (left, written):
        half.write_bytes(b"half")
    write_cached(whole, b"whole")
    assert {f.name for f in tmp_path.iterdir()} == {whole.name, written.name}
    assert whole.read_bytes() == b"whole"
