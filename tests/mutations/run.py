"""Plant one bug after the other and see which the tests notice: `python tests/mutations/run.py --area parts`.

A test that passes whether the code is right or wrong guards nothing, and line coverage does not see it. So every entry
of the files beside this one names a bug, and the tests that should fail once it is there. Each bug is planted in a copy
of the tree, alone. The exit status is 0 if every bug was noticed, but for those marked `survives`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

_PREPARED = (
    "numpy",
    "torch",
    "scipy.stats",
    "sklearn.cluster",
    "transformers.models.llama.modeling_llama",
    "hypothesis",
    "pydantic",
    "pytest",
)
"""What a process for tests needs of others' packages: imported once, which takes seconds; every process is a fork."""
_LEFT_OUT = (".git", ".venv", ".*_cache", ".hypothesis", "*.egg-info", "__pycache__", "build", "dist", "runs", "wandb")
_PASSED, _FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Bug:
    """One entry of an area.

    Attributes:
        area: file that holds it, from this folder on, without its ending. Those of a folder `unseen/...` were invented
            by somebody who had not read the tests, and planted before any test was written for them.
        name: in small letters with hyphens; no other bug has it.
        file: what it changes, from the root of the repository.
        old, new: the text that occurs once in the file, and what replaces it.
        wrong: what the program does wrong then, in one sentence.
        tests: files or node ids of tests, of which at least one should fail.
        survives: why no test can notice it; None for all others.
    """

    area: str
    name: str
    file: str
    old: str
    new: str
    wrong: str
    tests: list[str] = field(default_factory=list)
    survives: str | None = None

    def planted(self, text: str) -> str:
        """Return a file's `text` with the bug in it.

        Raises:
            ValueError: `old` does not occur exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.area}/{self.name}: its `old` occurs {count} times in {self.file}, not once.")
        return text.replace(self.old, self.new)


def load(areas: Iterable[str] = (), names: Iterable[str] = ()) -> list[Bug]:
    """Return the bugs of these areas and of these names, or all of them.

    Raises:
        ValueError: there is no such area or name.
    """
    files = {file.relative_to(HERE).with_suffix("").as_posix(): file for file in sorted(HERE.rglob("*.yaml"))}
    bugs = [
        Bug(area=a, **entry)
        for a, f in files.items()
        for entry in yaml.load(f.read_text(encoding="utf-8"), yaml.CSafeLoader)
    ]
    wanted, known = set(areas), set(names)
    folders = {folder.as_posix() for area in files for folder in Path(area).parents}
    unknown = sorted(wanted - set(files) - folders) + sorted(known - {b.name for b in bugs})
    if unknown:
        raise ValueError(f"no such area or name: {', '.join(unknown)}; areas are {', '.join(files)}.")
    chosen = {area for area in files if not wanted or wanted & {area, *(f.as_posix() for f in Path(area).parents)}}
    return [b for b in bugs if b.area in chosen and (not known or b.name in known)]


class Copy:
    """A copy of the tree in a folder of its own, with at most one bug in it. The tree itself may change meanwhile."""

    def __init__(self, folder: Path) -> None:
        """Copy the tree into `folder`, which does not exist."""
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        self._writes = 0
        self._right: tuple[Path, str] | None = None

    def plant(self, bug: Bug) -> None:
        """Put the bug in."""
        path = self.folder / bug.file
        text = path.read_text(encoding="utf-8")
        self._right = path, text
        self._write(path, bug.planted(text))

    def repair(self) -> None:
        """Take the bug out, if there is one."""
        if self._right is not None:
            self._write(*self._right)
            self._right = None

    def _write(self, path: Path, text: str) -> None:
        """Write a file at a time of its own: Python knows by time and size whether its compiled form is stale."""
        path.write_text(text, encoding="utf-8")
        self._writes += 1
        os.utime(path, (self._writes, self._writes))


def _run_tests(folder: Path, tests: Sequence[str], log: Path) -> None:
    """Run tests in a copy and exit with pytest's status; their output goes to `log`."""
    import pytest

    os.setsid()  # so that all processes that the tests start can be ended
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    prepared = "ignore::pytest.PytestAssertRewriteWarning"  # plugins that are imported already; they assert nothing
    sys.exit(int(pytest.main(["-x", "-n", "0", "-m", "", "-p", "no:cacheprovider", "-W", prepared, *tests])))


@dataclass(slots=True)
class _Trial:
    """A process that runs the tests of a bug, or of no bug."""

    bug: Bug | None
    copy: Copy
    process: BaseProcess
    log: Path
    began: float
    ends: float

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.began

    def over(self) -> bool:
        """Return whether it has ended or should."""
        return not self.process.is_alive() or time.monotonic() > self.ends

    def judged(self) -> str:
        """End it with all that it has started; return who noticed, that it survived, or why it says nothing."""
        in_time, status = not self.process.is_alive(), self.process.exitcode
        self.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        if not in_time:  # that may be a bug that is noticed, or a machine that is busy
            return "broken (its tests took too long)"
        if status == _PASSED:
            return "survived"
        failed = re.search(r"(?m)^(?:FAILED|ERROR) (\S+)", self.log.read_text(errors="replace"))
        if status != _FAILED or failed is None:
            return f"broken (pytest ended with {status})"
        return f"noticed by {failed[1]}"


class Trials:
    """Runs tests in copies of the tree, as many at once as there are copies."""

    def __init__(self, folder: Path, jobs: int, limit: float) -> None:
        """Make the copies.

        Args:
            folder: where they, and the output of the tests, are written.
            jobs: how many.
            limit: seconds after which the tests of a bug are ended.
        """
        for module in _PREPARED:
            importlib.import_module(module)
        self._fork = multiprocessing.get_context("fork")
        self._folder, self._limit = folder, limit
        self._free = [Copy(folder / f"tree-{n}") for n in range(jobs)]
        self._running: list[_Trial] = []

    def outcomes(self, planted: Iterable[tuple[Bug | None, Sequence[str]]]) -> Iterator[tuple[Bug | None, str, str]]:
        """Yield every bug (None: there is none) with what became of it and the output of its tests, as they end."""
        waiting = list(planted)[::-1]
        try:
            while waiting or self._running:
                while waiting and self._free:
                    self._start(*waiting.pop())
                first = min(t.ends for t in self._running)
                wait([t.process.sentinel for t in self._running], timeout=max(0.0, first - time.monotonic()))
                for trial in [t for t in self._running if t.over()]:
                    yield self._finished(trial)
        finally:
            for trial in self._running:
                trial.judged()

    def _start(self, bug: Bug | None, tests: Sequence[str]) -> None:
        copy, now = self._free.pop(), time.monotonic()
        if bug is not None:
            copy.plant(bug)
        log = self._folder / f"{copy.folder.name}.log"
        process = self._fork.Process(target=_run_tests, args=(copy.folder, tests, log))
        process.start()
        limit = self._limit if bug is not None else self._limit * len(tests)
        self._running.append(_Trial(bug, copy, process, log, now, now + limit))

    def _finished(self, trial: _Trial) -> tuple[Bug | None, str, str]:
        outcome = trial.judged()
        self._running.remove(trial)
        trial.copy.repair()
        if trial.bug is not None:
            print(f"{trial.bug.area:20} {trial.bug.name:48} {trial.seconds:6.1f} s  {outcome}", flush=True)
        self._free.append(trial.copy)
        return trial.bug, outcome, trial.log.read_text(errors="replace")


def run(bugs: Sequence[Bug], jobs: int, limit: float) -> dict[str, str]:
    """Return what became of every bug, by name, and print it as it happens.

    Args:
        bugs: to plant, one at a time.
        jobs: how many processes run at once.
        limit: seconds after which the tests of a bug are ended.

    Raises:
        ValueError: the tests fail without any bug.
    """
    outcomes: dict[str, str] = {}
    tests = sorted({test for bug in bugs for test in bug.tests})
    with tempfile.TemporaryDirectory(prefix="mutations-") as temporary:
        trials = Trials(Path(temporary).resolve(), jobs, limit)
        for _, outcome, log in trials.outcomes((None, tests[n::jobs]) for n in range(min(jobs, len(tests)))):
            if outcome != "survived":
                raise ValueError(f"{log}\nThe tests do not pass without any bug: {outcome}.")
        print(f"{len(tests)} files or tests pass without any bug.", flush=True)
        for bug, outcome, log in trials.outcomes((bug, bug.tests) for bug in bugs):
            assert bug is not None
            outcomes[bug.name] = outcome
            if outcome.startswith("broken"):
                print(log)
    return outcomes


def summary(bugs: Sequence[Bug], outcomes: dict[str, str]) -> tuple[str, list[str]]:
    """Return a table of what was noticed per area, and a sentence for each bug that should have ended otherwise."""
    out = io.StringIO()
    print(f"{'area':20} {'bugs':>5} {'noticed':>8} {'survived':>9} {'marked':>7}", file=out)
    for area in [*dict.fromkeys(b.area for b in bugs), "all"]:
        own = [b for b in bugs if area in (b.area, "all")]
        noticed = sum(outcomes[b.name].startswith("noticed") for b in own)
        survived = sum(outcomes[b.name] == "survived" for b in own)
        marked = sum(b.survives is not None for b in own)
        print(f"{area:20} {len(own):5} {noticed:8} {survived:9} {marked:7}", file=out)
    complaints = []
    for bug in bugs:
        outcome = outcomes[bug.name]
        where = f"{bug.area}/{bug.name} in {bug.file}"
        if outcome.startswith("broken"):
            complaints.append(f"{where} says nothing: {outcome}.")
        elif outcome == "survived" and bug.survives is None:
            complaints.append(f"No test notices {where}: {bug.wrong}")
        elif outcome != "survived" and bug.survives is not None:
            complaints.append(f"{where} is marked `survives`, but a test notices it.")
    return out.getvalue(), complaints


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--area", action="append", default=[], help="only bugs of this area or folder of areas; may be repeated"
    )
    parser.add_argument("--name", action="append", default=[], help="only the bug of this name; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes run at once (1)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that the tests of one bug may take (300)")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; no thread may run when a process is forked
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    began = time.monotonic()
    try:
        bugs = load(args.area, args.name)
        for bug in bugs:
            bug.planted((ROOT / bug.file).read_text(encoding="utf-8"))
        outcomes = run(bugs, args.jobs, args.limit)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    table, complaints = summary(bugs, outcomes)
    print(f"\n{table}\n{time.monotonic() - began:.0f} s with --jobs {args.jobs}.")
    for complaint in complaints:
        print(complaint)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
