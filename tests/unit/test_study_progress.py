"""What is shown of a study while it runs."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from lifelong.study import progress
from lifelong.study.jobs import Job


def test_jobs_elsewhere_tell_where_they_are(tmp_path: Path) -> None:
    """Events are those of all strategies of a job; of many jobs a few are named."""
    config = {"strategies": {"one": {}, "other": {}}}
    jobs = [Job(n, f"run {n}", config, str(tmp_path), f"folder-{n}", "code") for n in range(6)]
    shown = progress.Progress(jobs, silent=True)
    assert shown.position() == "[0/6]  no run has lived an event yet"
    shown.told("folder-0", 2, 6)
    shown.told("folder-1", 3, 6)
    assert shown.position().endswith("at event: run 0 2/12; run 1 3/12")
    for n in range(2, 6):
        shown.told(f"folder-{n}", 1, 6)
    assert shown.position().endswith("run 3 1/12; and 2 more")


def test_without_a_terminal_it_is_not_silent_while_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SAY_FIRST_S", 0.02)
    monkeypatch.setattr(progress, "_SAY_EVERY_S", 0.02)
    said = io.StringIO()
    job = Job(0, "run 0", {"strategies": {"one": {}}}, str(tmp_path), "folder", "code")
    with progress.Progress([job], Console(file=said, width=200)) as shown:
        shown.told("folder", 2, 6)
        until = time.monotonic() + 5
        while said.getvalue().count("at event: run 0 2/6\n") < 2 and time.monotonic() < until:
            time.sleep(0.01)
    lines = said.getvalue().splitlines()
    assert len(lines) >= 2
    assert all(line.endswith("at event: run 0 2/6") for line in lines[1:])  # the first may come before it is told


def test_what_is_told_late_takes_nothing_back(tmp_path: Path) -> None:
    job = Job(0, "run", {"strategies": {"one": {}}}, str(tmp_path), "folder", "code")
    standing = progress.Standing(job, state="done", lived=6, events=6)
    standing.hear(5, 6)
    assert (standing.state, standing.lived, standing.place()) == ("done", 6, "6/6")
