"""What a run says of itself where there is no terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from lifelong.trackers.console import ConsoleTracker


def test_a_long_event_and_references_are_not_silent(tmp_path: Path) -> None:
    said = io.StringIO()
    tracker = ConsoleTracker(Console(file=said, width=200), still_s=0.03)
    stream = SimpleNamespace(events=(0, 1))
    strategy = {"strategy": "a", "config": {"strategies": {"a": {}}}, "folder": tmp_path}
    info: Any = SimpleNamespace(**strategy, stream=stream, taken_from=None)
    tracker.begin(info, 0)
    _wait_for(said, "event")  # the first event has not come
    assert "strategy 1/1 a: 0/2 events, 0 steps, 0 s so far" in said.getvalue()
    tracker.event(0, [], 0.0)
    tracker.event(1, [], 0.0)
    _wait_for(said, "its references are lived")
    tracker.references([], 0.0)
    tracker.end()
    spoken = said.getvalue()
    time.sleep(0.1)
    assert said.getvalue() == spoken


def _wait_for(said: io.StringIO, text: str) -> None:
    until = time.monotonic() + 5
    while said.getvalue().count(text) < 2 and time.monotonic() < until:
        time.sleep(0.01)
