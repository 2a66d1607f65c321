"""What the scripts share: plain arguments, and a result that every call adds to.

Every script draws its trials by name from a seed. With ``--json FILE`` it goes on behind the trials that the file
counts already, adds its own after each, and so can be stopped and called again. It exits with 1 if the file, or what it
has just found, holds a single failure.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: children are forked, and threads do not follow

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def arguments(description: str | None, minutes: float) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="what all trials are drawn from, by name")
    parser.add_argument("--minutes", type=float, default=minutes, help="begin no further trial after that")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add to FILE, and go on behind what it counts")
    return parser


class Counts:
    """Numbers by name, and every failure in words; kept in a file where one is named."""

    def __init__(self, file: Path | None, minutes: float) -> None:
        self._file = file
        self.begin(minutes)
        self.data: dict[str, Any] = {"failures": []}
        if file is not None and file.exists():
            self.data = json.loads(file.read_text(encoding="utf-8"))

    def begin(self, minutes: float) -> None:
        """Let the time start now."""
        self._until = time.monotonic() + 60 * minutes

    @property
    def time_left(self) -> bool:
        return time.monotonic() < self._until

    @property
    def failures(self) -> list[str]:
        return self.data["failures"]  # type: ignore[no-any-return]

    def add(self, number: int, *path: str) -> None:
        """Add to a count; a path of names leads to it."""
        *groups, last = path
        place = self.data
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = place.get(last, 0) + number

    def get(self, *path: str) -> int:
        place: Any = self.data
        for name in path:
            place = place.get(name, {})
        return place or 0

    def fail(self, what: str) -> None:
        print(f"FAILED: {what}", flush=True)
        self.failures.append(what)

    def save(self) -> None:
        """Write everything, with what it was made by last."""
        if self._file is None:
            return
        from lifelong.files import code_version, write_atomically

        packages = {name: version(name) for name in ("torch", "numpy")}
        self.data["made"] = {"date": time.strftime("%Y-%m-%d"), "code": code_version(), **packages}
        write_atomically(self._file, (json.dumps(self.data, indent=1, sort_keys=True) + "\n").encode())

    def close(self) -> int:
        """Save, print, and return the exit code."""
        self.save()
        print(json.dumps(self.data, indent=1, sort_keys=True))
        return 1 if self.failures else 0


def in_child(work: Callable[[], object], log: Path) -> int:
    """Fork a process that does `work` and ends; return its id. What it prints goes into a file."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        work()
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:  # nothing of the parent's may happen twice
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def import_what_is_imported(work: Callable[[], object], log: Path) -> int:
    """Do `work` in a child, and import here what it has imported, so that later ones need not; return its exit code.

    What a child computes is never computed here: each computes it as the first.
    """
    names = log.with_name("modules.json")

    def noting() -> None:
        try:
            work()
        finally:
            names.write_text(json.dumps(list(sys.modules)))

    code = ended(in_child(noting, log))
    for name in json.loads(names.read_text()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return code


def ended(child: int) -> int:
    """Wait for a child; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
