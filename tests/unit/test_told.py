"""What is told on a terminal: how far a run has come, and whether a machine is ready."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lifelong.results.table import row
from lifelong.setup import doctor
from lifelong.trackers import console as module
from lifelong.trackers.console import ConsoleTracker

ROWS = [
    row(0, "run", "event", "steps", 1000.0, 1),
    row(0, "run", "event", "forward", 7.0, 1),
    row(0, "run", "request-0", "steps", 5.0, 1),
]


def info_of(strategy: str) -> Any:
    config = {"strategies": {"first": {}, "second": {}}}
    folder = Path("runs/mine/strategies") / strategy
    return SimpleNamespace(
        config=config,
        strategy=strategy,
        stream=SimpleNamespace(events=[None] * 4),
        folder=folder,
        taken_from=None,
    )


def test_lines_of_a_run_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at the start, one every ten seconds at most, one in the end; steps are those of events."""
    now, told = 100.0, io.StringIO()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    tracker = ConsoleTracker(Console(file=told, width=200))
    assert (tracker.folder, tracker.position) == (None, "before the first event")
    tracker.begin(info_of("second"), 1)
    assert tracker.folder == Path("runs/mine")
    assert tracker.position == "after event 1 of 4 of strategy second"
    for index, at in ((1, 109.0), (2, 110.0), (3, 115.0)):
        now = at
        tracker.event(index, ROWS, 1.0)
    assert tracker.position == "among the references of strategy second, after its last event"
    now = 121.5
    tracker.references([], 2.25)
    assert tracker.position == "after strategy second"
    tracker.begin(info_of("first"), 0)
    tracker.event(0, ROWS, 1.0)
    tracker.references([], 0.0)
    tracker.end()
    assert told.getvalue().splitlines() == [
        "strategy 2/2 second: 4 events, going on after event 1",
        "strategy 2/2 second: 3/4 events, 2,000 steps",
        "strategy 2/2 second: done in 21.5 s, 3,000 steps (references: 2.2 s of it)",
        "strategy 1/2 first: 4 events",
        "strategy 1/2 first: done in 0.0 s, 1,000 steps (references: 0.0 s of it)",
    ]


def test_a_silent_tracker_only_remembers() -> None:
    told = io.StringIO()
    tracker = ConsoleTracker(Console(file=told), interval_s=0.0, silent=True)
    tracker.begin(info_of("first"), 0)
    tracker.event(0, ROWS, 1.0)
    assert tracker.position == "after event 1 of 4 of strategy first"
    tracker.references([], 0.0)
    assert told.getvalue() == ""


def test_a_bar_on_a_terminal_is_where_the_run_is() -> None:
    tracker = ConsoleTracker(Console(file=io.StringIO(), force_terminal=True))
    tracker.begin(info_of("first"), 1)
    assert tracker._progress is not None
    (task,) = tracker._progress.tasks
    assert (task.total, task.completed, task.fields["events"], task.fields["phase"]) == (4, 1, "1/4", "")
    tracker.event(3, ROWS, 1.0)
    assert (task.completed, task.fields["events"], task.fields["steps"]) == (4, "4/4", "1,000")
    assert task.fields["phase"] == "references"
    tracker.references([], 0.0)
    assert tracker._progress is None


def test_what_the_doctor_says_of_folders_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("LIFELONG_CACHE", str(cache))
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    found = {c.name: c for c in doctor.examine(tmp_path / "a" / "runs")}
    assert found["cache folder"].found == f"{cache} (will be made)"
    assert found["runs folder"].found == f"{tmp_path / 'a' / 'runs'} (will be made)"
    assert found["numpy"].good
    assert not found["no-such-package"].good
    assert not (tmp_path / "a").exists()
    (cache / "deep").mkdir(parents=True)
    (cache / "one").write_bytes(bytes(700_000))
    (cache / "deep" / "other").write_bytes(bytes(800_000))
    (tmp_path / "file").write_text("no folder")
    found = {c.name: c for c in doctor.examine(tmp_path / "file" / "runs")}
    assert found["cache folder"].found == f"{cache}: 2 files, 1.5 MB (may be deleted at any time)"
    assert found["cache folder"].good
    assert not found["runs folder"].good
    assert "choose another with --runs" in found["runs folder"].found
