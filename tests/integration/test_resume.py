"""A run may be killed anywhere: what it leaves in the end is, to the bit, what an uninterrupted run leaves."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lifelong
from lifelong.execution.standing import strategy_after
from lifelong.files import write_atomically
from lifelong.results.record import Record
from lifelong.setup.preparation import prepare
from strategies.parts.model import digest
from strategies.step import step
from streams.errors import CheckpointError

ROOT = Path(__file__).parents[2]
CONFIG = {
    "name": "killed",
    "source": "digits",
    "scenario": {"name": "class-incremental", "experiences": 5},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 2, "scope": "sample", "count": 20},
            {"after": 3, "scope": "class", "keys": [1], "again_after": 4},
            {"after": 4, "scope": "user", "keys": [11]},
        ],
    },
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.05, "momentum": 0.5},
    "strategies": {
        "replay-finetune": {
            "learner": {"name": "replay", "memory": 100},
            "unlearner": {"name": "finetune", "epochs": 1},
        },
        "independent": {"isolated": "independent"},
    },
    "references": {"kinds": ["retrained"]},
    "recording": {"keep": "all"},  # so that details are compared, too
}
WORKER = """
import sys, lifelong

class Announce:
    def begin(self, info, first_event): print("ready", flush=True)
    def event(self, index, rows, seconds): pass
    def references(self, rows, seconds): pass
    def end(self): pass

lifelong.run(lifelong.load_config(sys.argv[1]), sys.argv[2], [Announce()])
"""
SAME = ("results.jsonl", "scores.bin", "losses.bin")


def small(**changes: Any) -> Any:
    """A configuration that runs in a fraction of a second."""
    data = CONFIG | {
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.05},
        "strategies": {"replay-none": {"learner": {"name": "replay", "memory": 50}, "unlearner": "none"}},
        "references": {"kinds": ["retrained"]},
    }
    return lifelong.RunConfig.model_validate(data | changes)


def start(arguments: list[str], cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"LIFELONG_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=cache, env=environment, stdout=pipe, stderr=pipe, text=True)


def is_ready(process: subprocess.Popen[str]) -> bool:
    """Wait until a strategy begins or goes on; false if all have come to their end."""
    assert process.stdout is not None
    return process.stdout.readline() == "ready\n"


def result_of(folder: Path) -> dict[str, Any]:
    """Everything that must be the same: rows and outputs as bytes, every detail, the final state."""
    found: dict[str, Any] = {}
    for strategy in sorted((folder / "strategies").iterdir()):
        for name in SAME:
            found[f"{strategy.name}/{name}"] = (strategy / name).read_bytes()
        for detail in sorted((strategy / "details").iterdir()):
            found[f"{strategy.name}/{detail.name}"] = detail.read_bytes()
        (last,) = (strategy / "checkpoints").glob("event-*.pt")
        content = torch.load(last, weights_only=True)
        found[f"{strategy.name}/state"] = (content["event"], digest(content["state"]))
        assert (strategy / "done.json").exists()
    return found


def litter(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*.part")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], float]:
    """The configuration file, the result of a whole run, and the seconds it worked."""
    home = tmp_path_factory.mktemp("whole")
    file = home / "killed.yaml"
    file.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(home / "cache"))
        began = time.monotonic()
        run = lifelong.run(lifelong.load_config(str(file)), home / "runs")
    return file, result_of(run.folder), time.monotonic() - began


@pytest.mark.nightly
@pytest.mark.parametrize(("seed", "attempts"), [(0, 1), (1, 3)])
def test_killed_at_random_instants(seed: int, attempts: int, uninterrupted: Any, tmp_path: Path) -> None:
    file, expected, seconds = uninterrupted
    (tmp_path / "cache").mkdir()
    instants, kills = random.Random(seed), 0
    command = ["-c", WORKER, str(file), str(tmp_path / "runs")]
    for _ in range(attempts):
        with start(command, tmp_path / "cache") as process:
            if is_ready(process):
                time.sleep(instants.uniform(0.0, 0.4) * seconds)
                process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    assert kills >= (attempts + 1) // 2
    (folder,) = (tmp_path / "runs").iterdir()
    lifelong.load_run(folder)  # what is left can be looked at as it is
    if seed == 0:  # the command line goes on where the script was killed
        command = ["-c", "from cli.main import main; main()", "resume", str(folder), "--quiet"]
    with start(command, tmp_path / "cache") as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert result_of(folder) == expected
    assert litter(folder / "strategies") == []


class Crash(BaseException):
    """The process ends here."""


def replace_everywhere(patch: pytest.MonkeyPatch, function: Any, other: Any) -> None:
    """Put `other` in the place of a function in every module of ours that has it."""
    ours = [module for name, module in sys.modules.items() if name.startswith(("lifelong.", "streams."))]
    found = [module for module in ours if vars(module).get(function.__name__) is function]
    assert found
    for module in found:
        patch.setattr(module, function.__name__, other)


def crash(*arguments: object) -> None:
    raise Crash


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    return tmp_path


SHORT = {
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 2, "scope": "class", "keys": [1], "again_after": 3}],
    },
}
WITHIN = {
    "training": {"epochs": 1, "batch_size": 200, "lr": 0.05},
    "recording": {"keep": "all", "checkpoint_minutes": 0},
}


# After a write is before the next, but for half a file.
@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "stream",
    [SHORT, *(pytest.param(stream, marks=pytest.mark.nightly) for stream in ({}, SHORT | WITHIN))],
    ids=["short", "long", "within"],
)
def test_a_crash_at_every_write(
    stream: dict[str, Any], moment: str, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crash before and after every single file that is written, each time from a fresh start."""
    import lifelong.execution.manifest

    config = small(references={"kinds": ["retrained", "fresh"]}, **stream)
    expected = result_of(lifelong.run(config, at_home / "whole").folder)
    monkeypatch.setattr("lifelong.results.record._PATIENCE", 0.0)
    crashed = 0
    while True:
        root, left = at_home / f"{moment}-{crashed}", crashed

        def fails(file: Path, content: Any, fsync: bool = False) -> None:
            nonlocal left
            left -= 1
            if callable(content):
                buffer = io.BytesIO()
                content(buffer)
                content = buffer.getvalue()
            if left == -1 and moment == "before":
                file.with_name(f".{file.name}.1.part").parent.mkdir(parents=True, exist_ok=True)
                file.with_name(f".{file.name}.1.part").write_bytes(content[: len(content) // 2])
                raise Crash
            write_atomically(file, content)
            if left == -1:
                raise Crash

        monkeypatch.setenv("LIFELONG_CACHE", str(root / "cache"))
        try:
            with monkeypatch.context() as patch:
                replace_everywhere(patch, write_atomically, fails)
                lifelong.run(config, root)
            break
        except Crash:
            crashed += 1
        run = lifelong.run(config, root)
        assert result_of(run.folder) == expected, f"crash {moment} write number {crashed}"
        assert litter(run.folder / "strategies") == []
        shutil.rmtree(root)
    assert crashed > 12


@pytest.mark.nightly
def test_interrupted_after_every_event(at_home: Path) -> None:
    class Stop:
        def __init__(self, at: int) -> None:
            self.at = at

        def begin(self, info: object, first_event: int) -> None:
            self.first = first_event

        def event(self, index: int, rows: object, seconds: float) -> None:
            if index == self.at:
                raise KeyboardInterrupt

        def references(self, rows: object, seconds: float) -> None: ...

        def end(self) -> None: ...

    config = small()
    whole = lifelong.run(config, at_home / "whole")
    events = 1 + max(r.event for r in whole.tables["replay-none"].rows)
    for at in range(events):
        with pytest.raises(KeyboardInterrupt):
            lifelong.run(config, at_home / "stopped", [Stop(at)], fresh=at % 2 == 0)
    again = lifelong.run(config, at_home / "stopped")
    assert result_of(again.folder) == result_of(whole.folder)


def test_a_finished_run_computes_nothing(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small()
    run = lifelong.run(config, at_home)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.folder.rglob("*") if p.is_file()}
    replace_everywhere(monkeypatch, step, lambda *a: pytest.fail("an event was played"))
    monkeypatch.setattr(
        "lifelong.evaluation.evaluator.Evaluator.evaluate", lambda *a: pytest.fail("something was evaluated")
    )
    for again in (lifelong.run(config, at_home), lifelong.resume(run.folder)):
        assert again.done
        assert again.tables["replay-none"].rows == run.tables["replay-none"].rows
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.folder.rglob("*") if p.is_file()}
    changed = {p.name for p in after if after[p] != before.get(p)}
    assert changed <= {".lock"}


def checkpoints(run_folder: Path) -> list[Path]:
    return sorted((run_folder / "strategies" / "replay-none" / "checkpoints").iterdir())


def stopped(config: Any, root: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> Path:
    """Run until `after` events are saved, keeping every checkpoint that may be kept, and stop."""
    save = Record.save
    monkeypatch.setattr("lifelong.results.record._PATIENCE", 0.0)

    def stop(self: Record, checkpoint: Any, must: bool) -> None:
        save(self, checkpoint, must)
        if checkpoint.event == after:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Record, "save", stop)
        with pytest.raises(Crash):
            lifelong.run(config, root)
    (folder,) = root.iterdir()
    return folder


# Events of the stream: 0, 1 learn, 2 forgets samples, 3 learns, 4 forgets a class, 5 learns, 6 forgets a user.


def test_who_takes_over_a_whole_life_ends_with_its_last_checkpoint(at_home: Path) -> None:
    """Without a request the beginning that strategies have in common is the stream."""
    strategies = {"first": {"unlearner": "none"}, "second": {"unlearner": "finetune"}}
    config = CONFIG | {"schedule": "none", "strategies": strategies, "references": {"kinds": []}}
    run = lifelong.run(config, at_home / "runs")
    ends = [sorted(f.name for f in (run.folder / "strategies" / name / "checkpoints").iterdir()) for name in strategies]
    assert ends == [["event-000005.pt"]] * 2
    models = [strategy_after(prepare(run.config), run.folder, name).network() for name in strategies]
    assert len({digest(m.parameters) for m in models if m is not None}) == 1


def test_what_comes_after_a_resume_is_what_would_have_come(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, too: what is told of them counts from their arrival, and not from the resume."""
    expected = result_of(lifelong.run(small(), at_home / "whole").folder)
    stopped(small(), at_home / "again", monkeypatch, after=3)
    assert result_of(lifelong.run(small(), at_home / "again").folder) == expected


@pytest.mark.nightly
def test_a_corrupt_newest_checkpoint_gives_way_to_the_older_one(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = result_of(lifelong.run(small(), at_home / "whole").folder)
    for damage in (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK" + b[2:][::-1]):
        folder = stopped(small(), at_home / "broken", monkeypatch, after=1)
        older, newest = checkpoints(folder)
        newest.write_bytes(damage(newest.read_bytes()))
        assert result_of(lifelong.run(small(), at_home / "broken").folder) == expected
        assert not older.exists()
        shutil.rmtree(at_home / "broken")


def test_no_intact_checkpoint_says_what_to_do(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(small(), at_home / "runs", monkeypatch, after=2)
    (only,) = checkpoints(folder)
    only.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="corrupt.*--fresh"):
        lifelong.run(small(), at_home / "runs")
    assert lifelong.run(small(), at_home / "runs", fresh=True).done


def test_after_a_deletion_no_older_checkpoint_is_kept(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(small(), at_home / "runs", monkeypatch, after=1)
    assert [f.name for f in checkpoints(folder)] == ["event-000001.pt", "event-000002.pt"]
    shutil.rmtree(at_home / "runs")
    folder = stopped(small(), at_home / "runs", monkeypatch, after=2)
    assert [f.name for f in checkpoints(folder)] == ["event-000003.pt"]


def test_what_a_crash_left_of_older_checkpoints_goes_on_resume(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process died between writing the checkpoint after a deletion and removing the ones before it."""
    folder = stopped(small(), at_home / "runs", monkeypatch, after=1)
    before = {f.name: f.read_bytes() for f in checkpoints(folder)}
    shutil.rmtree(at_home / "runs")
    folder = stopped(small(), at_home / "runs", monkeypatch, after=2)
    for name, content in before.items():
        (folder / "strategies/replay-none/checkpoints" / name).write_bytes(content)
        (folder / "strategies/replay-none/checkpoints" / f".{name}.99.part").write_bytes(content)

    with monkeypatch.context() as patch:
        replace_everywhere(patch, step, crash)
        with pytest.raises(Crash):
            lifelong.run(small(), at_home / "runs")
    assert [f.name for f in checkpoints(folder)] == ["event-000003.pt"]


def test_a_checkpoint_of_another_configuration_is_refused(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = stopped(small(seed=1), at_home / "theirs", monkeypatch, after=2)
    ours = stopped(small(), at_home / "ours", monkeypatch, after=2)
    (mine,), (foreign,) = checkpoints(ours), checkpoints(theirs)
    shutil.copy(foreign, mine)
    with pytest.raises(CheckpointError, match="another configuration"):
        lifelong.run(small(), at_home / "ours")


def test_a_folder_of_other_code_is_not_resumed(at_home: Path) -> None:
    run = lifelong.run(small(), at_home / "runs")
    moved = run.folder.rename(run.folder.with_name("killed-0123456789abcdef"))
    with pytest.raises(CheckpointError, match="another version of the code"):
        lifelong.resume(moved)
    with pytest.raises(CheckpointError, match="not a run folder"):
        lifelong.resume(at_home)


def test_outputs_shorter_than_every_checkpoint_are_refused(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(small(), at_home / "runs", monkeypatch, after=2)  # after a deletion there is only one checkpoint
    scores = folder / "strategies/replay-none/scores.bin"
    scores.write_bytes(scores.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="shorter.*--fresh"):
        lifelong.run(small(), at_home / "runs")


@pytest.mark.nightly
def test_references_are_cached_by_content(at_home: Path) -> None:
    def cost(root: str, **changes: Any) -> dict[str, int]:
        run = lifelong.run(small(**changes), at_home / root)
        return {k: v for k, v in run.summaries["replay-none"]["references"].items() if k != "seconds"}

    first = cost("a")
    assert first["computed"] == 4
    assert first["cached"] == 0
    assert first["steps"] > 0
    assert cost("b") == {"computed": 0, "cached": 4, "steps": 0}
    # Another number of epochs is another reference; another name or another unlearner is not.
    assert cost("c", name="other") == {"computed": 0, "cached": 4, "steps": 0}
    finetune = {"learner": {"name": "replay", "memory": 50}, "unlearner": {"name": "finetune", "epochs": 1}}
    assert cost("d", strategies={"replay-none": finetune})["computed"] == 0
    assert cost("e", training={"epochs": 2, "batch_size": 64, "lr": 0.05})["computed"] == 4
    assert cost("f", seed=1)["computed"] == 4


@pytest.mark.nightly
def test_a_damaged_cache_is_computed_again(at_home: Path) -> None:
    rows = lifelong.run(small(), at_home / "a").tables["replay-none"].rows
    files = sorted((at_home / "cache" / "references").glob("*.sealed"))
    whole = {f: f.read_bytes() for f in files}
    files[0].write_bytes(whole[files[0]][:100])
    files[1].write_bytes(b"")
    files[2].write_bytes(b"not a zip file at all")
    again = lifelong.run(small(), at_home / "b")
    assert again.summaries["replay-none"]["references"]["computed"] == 3
    assert again.tables["replay-none"].rows == rows
    assert {f: f.read_bytes() for f in files} == whole


@pytest.mark.nightly
def test_two_processes_on_one_folder(uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, *_ = uninterrupted
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    config = lifelong.load_config(str(file))
    with start(["-c", WORKER, str(file), str(tmp_path / "runs")], tmp_path) as process:
        assert is_ready(process)
        process.send_signal(signal.SIGSTOP)  # it stays exactly where it is, and holds the folder
        try:
            for fresh in (False, True):
                with pytest.raises(CheckpointError, match="another process"):
                    lifelong.run(config, tmp_path / "runs", fresh=fresh)
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "runs").iterdir())) == 1
