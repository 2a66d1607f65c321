"""What is shown of a study while it runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lifelong.study import progress
from lifelong.study.jobs import Job


def test_jobs_elsewhere_tell_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, in a line a minute; events are those of all strategies of a job."""
    now, told = 0.0, io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    config = {"strategies": {"one": {}, "other": {}}}
    jobs = [Job(n, f"run {n}", config, str(tmp_path), f"folder-{n}", "code") for n in range(2)]
    with progress.Progress(jobs, Console(file=told, width=200)) as shown:
        for at, name, lived in [(1, "folder-0", 2), (61, "folder-1", 3), (62, "folder-0", 7), (122, "folder-0", 8)]:
            now = at
            shown.told(name, lived, 6)
    first, second = told.getvalue().splitlines()
    assert first.startswith("[0/2")
    assert first.endswith("at event: run 0 2/12; run 1 3/12")
    assert second.endswith("at event: run 0 8/12; run 1 3/12")


def test_what_is_told_late_takes_nothing_back(tmp_path: Path) -> None:
    job = Job(0, "run", {"strategies": {"one": {}}}, str(tmp_path), "folder", "code")
    standing = progress.Standing(job, state="done", lived=6, events=6)
    standing.hear(5, 6)
    assert (standing.state, standing.lived, standing.place()) == ("done", 6, "6/6")
