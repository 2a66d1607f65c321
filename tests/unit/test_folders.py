"""Which folder `last` is."""

from __future__ import annotations

import os
from pathlib import Path

from cli.folders import find_folder


def test_last_is_the_run_that_an_event_was_written_to(tmp_path: Path) -> None:
    for number, name in enumerate(("long", "short")):
        timings = tmp_path / name / "strategies" / "a" / "timings.jsonl"
        timings.parent.mkdir(parents=True)
        timings.touch()
        (tmp_path / name / "config.yaml").touch()
        for path in (timings, tmp_path / name):
            os.utime(path, (number, number))
    assert find_folder("last", tmp_path).name == "short"
    os.utime(tmp_path / "long" / "strategies" / "a" / "timings.jsonl", (2, 2))  # as when a line is appended
    assert find_folder("last", tmp_path).name == "long"
