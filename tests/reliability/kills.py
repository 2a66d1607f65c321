"""Kills: however often a run, a study or a run on text is killed, it ends with the bytes of one that never was.

    python tests/reliability/kills.py --kills 1000 --json tests/reliability/results/kills.json

Everything is imported once; every attempt is the command line in a process of its own, forked from there. One half of
the kills come at a random instant of the life, the others a random moment after some write, lesson, request, look or
reference has begun, or after a state in the middle of a training was kept, which is after every step or, in the run of
long lessons, every 5 ms. A quarter of the kills are SIGTERM, which the program handles; the others SIGKILL, which it
cannot. In a study the victim is the study or one of its workers. A life is killed up to sixteen times and then left
alone. Compared are all files of the run folders and of the cache, but for seconds and dates: tables and outputs as
bytes, states by digest. It is counted where an attempt after a kill comes back to: into the middle of an event or of a
reference's life, or to the start of an event.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _common import Counts, arguments, ended, import_what_is_imported, in_child

DIGITS: dict[str, Any] = {
    "scenario": {"name": "class-incremental", "experiences": 4},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 2, "scope": "sample", "count": 20},
            {"after": 3, "scope": "class", "keys": [1], "again_after": 3},
            {"after": 4, "scope": "user", "keys": [11]},
        ],
    },
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.05, "momentum": 0.5},
    "recording": {"checkpoint_minutes": 0},  # after every step: most kills come within events
}
TWO = {
    "replay-finetune": {"learner": {"name": "replay", "memory": 100}, "unlearner": {"name": "finetune", "epochs": 1}},
    "replay-retrain": {"learner": {"name": "replay", "memory": 100}, "unlearner": "retrain"},
}
RUN = DIGITS | {
    "name": "killed-run",
    "strategies": {
        **TWO,  # which share their life up to the first request
        "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2}},
    },
    "references": {"kinds": ["retrained", "no-op"]},
    "recording": {"keep": "all", "checkpoint_minutes": 0},
}
LESSONS = DIGITS | {
    "name": "killed-lessons",
    "training": {"epochs": 8, "batch_size": 16, "lr": 0.02, "momentum": 0.5},
    "strategies": {
        "ewc-scrub": {"learner": "ewc", "unlearner": {"name": "scrub", "epochs": 3}},
        "replay-retrain": {"learner": {"name": "replay", "memory": 100}, "unlearner": "retrain"},
        "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2}},
    },
    "references": {"kinds": ["retrained"]},
    "recording": {"checkpoint_minutes": 0.005 / 60},
}
TEXT: dict[str, Any] = {
    "name": "killed-text",
    "source": {
        "name": "people",
        "people": 2,
        "groups": 2,
        "holdout": 2,
        "world": False,
        "answers": "short",
        "vocabulary": 320,
    },
    "scenario": {"name": "domain-incremental", "kind": "natural"},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 1, "scope": "sample", "count": 3}, {"after": 2, "scope": "user", "keys": [1]}],
    },
    "objective": {"name": "causal-lm", "loss_on": "all"},
    "model": {"name": "tiny-llama", "width": 16, "inner": 16, "depth": 1, "heads": 2},
    "training": {"epochs": 1, "batch_size": 16, "optimizer": "adam", "lr": 0.002},
    "strategies": {
        "replay-npo": {
            "learner": {"name": "replay", "memory": 10, "batch": 4},
            "unlearner": {"name": "npo", "epochs": 1},
        },
        "naive-retrain": {"learner": "naive", "unlearner": "retrain"},
    },
    "references": {"kinds": ["retrained"]},
    "recording": {"checkpoint_minutes": 0},
}
STUDY: dict[str, Any] = {
    "name": "killed-study",
    "claim": "Retraining from the memory is as good as training on.",
    "base": DIGITS | {"references": {"kinds": ["retrained"]}},
    "strategies": {
        **TWO,
        "ewc-der-ascent": {
            "learner": ["ewc", {"name": "der-plus-plus", "memory": 60}],
            "unlearner": {"name": "gradient-ascent", "epochs": 1},
        },
    },
    "seeds": 2,
    "comparisons": [{"metric": "average_accuracy", "of": ["replay-retrain"], "minus": "replay-finetune"}],
}
SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "run": ("run", RUN),
    "lessons": ("run", LESSONS),
    "text": ("run", TEXT),
    "study": ("study", STUDY),
}
"""The command, and what is in the file that it is given."""

MOST_KILLS, MOST_SECONDS = 16, 300.0
PHASES = (
    "starting",
    "learning",
    "forgetting",
    "looking",
    "references",
    "writing a file",
    "finishing",
    "keeping a training",
)
PLACES = ("elsewhere", "the start of an event", "within an event", "within a reference")
_SHARED = mmap.mmap(-1, 2)  # with all children: what the one that writes is doing, and where an attempt came back to


class Target:
    """When an attempt is to be hit: at an instant of CPU time, or a moment after the n-th beginning of a phase.

    The clock of instants starts with the process, or when it has read everything and goes on with a life.
    """

    def __init__(
        self, instant: float | None, at_once: bool = False, phase: str = "", entry: int = 0, delay: float = 0.0
    ) -> None:
        self.instant, self.at_once, self.phase, self.entry, self.delay = instant, at_once, phase, entry, delay
        self.reader, self.writer = os.pipe()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Watched:
    """Lets a process tell which phase it is in, and notes how often and how long each was in a whole life."""

    def __init__(self, target: Target | None) -> None:
        self._target, self._entries = target, dict.fromkeys(PHASES, 0)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        before, _SHARED[0] = _SHARED[0], PHASES.index(phase)
        self._entries[phase] += 1
        if self._target is not None and (phase, self._entries[phase]) == (self._target.phase, self._target.entry):
            os.write(self._target.writer, b"!")
        try:
            yield
        finally:
            _SHARED[0] = before

    def dump(self, file: Path) -> None:
        """Write how often each phase was entered."""
        file.write_text(json.dumps(self._entries))


def watch(target: Target | None, file: Path | None) -> None:
    """Put the phases around the functions that they are, in this process alone."""
    import lifelong.execution.life as life
    from lifelong.evaluation.evaluator import Evaluator
    from lifelong.files import write_atomically
    from lifelong.results.record import Record, Within
    from streams.events import DeletionRequest

    phase = Watched(target)
    step, evaluate, compare, finish = life.Life._step, Evaluator.evaluate, life.compare, Record.finish
    restore, read = life.Life._restore, Within.read
    in_reference = False

    def came_back(place: str) -> None:
        _SHARED[1] = max(_SHARED[1], PLACES.index(place))

    def restored(self: Any, *arguments: Any) -> int:
        first: int = restore(self, *arguments)
        if 0 < first <= self._last:
            came_back("the start of an event")
        return first

    def noticed(self: Within, number: int) -> Any:
        state = read(self, number)
        if state is not None:
            came_back("within a reference" if in_reference else "within an event")
        return state

    def compared(*arguments: Any) -> Any:
        nonlocal in_reference
        in_reference = True
        with phase("references"):
            found = compare(*arguments)
        in_reference = False
        return found

    def stepped(self: Any, strategy: Any, index: int, ledger: Any) -> Any:
        with phase("forgetting" if isinstance(self._p.stream.events[index], DeletionRequest) else "learning"):
            return step(self, strategy, index, ledger)

    def within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*positional: Any, **named: Any) -> Any:
            with phase(name):
                return function(*positional, **named)

        return wrapped

    def finished(self: Record, summary: Any) -> None:
        with phase("finishing"):
            finish(self, summary)
        if file is not None:
            phase.dump(file)

    life.Life._step = stepped  # type: ignore[method-assign]
    Evaluator.evaluate = within("looking", evaluate)  # type: ignore[method-assign]
    Record.finish = finished  # type: ignore[method-assign]
    life.Life._restore = restored  # type: ignore[method-assign]
    life.compare = compared
    Within.read, Within.write = noticed, within("keeping a training", Within.write)  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        if name.startswith("lifelong.") and vars(module).get("write_atomically") is write_atomically:
            module.write_atomically = within("writing a file", write_atomically)  # type: ignore[attr-defined]


def command(kind: str, file: Path, root: Path, target: Target | None, notes: Path | None = None) -> Callable[[], None]:
    """What a child does: what `lifelong run` or `lifelong study` does."""

    def work() -> None:
        import multiprocessing

        import cli.commands.run
        import cli.commands.study
        import lifelong.study.forkserver
        import lifelong.study.local
        from cli.main import main

        # Reports are made of rows, which are compared.
        cli.commands.run.show_runs = lambda runs, as_json: [run.folder for run in runs]
        cli.commands.study._report = lambda study: None
        # Workers are forked from here, where all is imported, and not from a process that has to import it first.
        for module in (lifelong.study.local, lifelong.study.forkserver):
            module.start_forkserver = lambda: multiprocessing.get_context("fork")  # type: ignore[assignment]
        os.setpgid(0, 0)
        os.environ["LIFELONG_CACHE"] = str(root / "cache")
        watch(target, notes)
        sys.argv = ["lifelong", kind, str(file), "--runs", str(root / "runs"), "--quiet"]
        sys.argv += ["--workers", "2"] if kind == "study" else []
        main()

    return work


def cpu_seconds(processes: list[int]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            total += int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
    return total / 1e9


def tree(child: int) -> list[int]:
    """A process and its children."""
    with contextlib.suppress(OSError):
        return [child, *map(int, Path(f"/proc/{child}/task/{child}/children").read_text().split())]
    return [child]


def hit(child: int, target: Target, number: signal.Signals, dice: random.Random) -> tuple[int, str]:
    """Kill a child, or one of its own, when it is time; return how it ended, and in which phase it was.

    The phase is empty if it came to its end before.
    """
    began, clock = time.monotonic(), 0.0 if target.at_once else None
    _SHARED[0] = 0
    os.set_blocking(target.reader, False)
    while (status := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        if target.instant is None:
            with contextlib.suppress(BlockingIOError):
                os.read(target.reader, 1)
                time.sleep(target.delay)
                break
            time.sleep(0.0002)
        elif clock is None:
            clock = cpu_seconds(tree(child)) if _SHARED[0] else None
            time.sleep(0.001)
        elif cpu_seconds(tree(child)) >= clock + target.instant:
            break
        else:
            time.sleep(0.001)
        if time.monotonic() - began > MOST_SECONDS:
            os.killpg(child, signal.SIGKILL)
            raise RuntimeError(f"an attempt takes longer than {MOST_SECONDS:.0f} s")
    if status is not None:
        return ended(child), ""
    processes = tree(child)
    victim = dice.choice(processes[1:]) if len(processes) > 1 and dice.random() < 0.5 else child
    phase = PHASES[_SHARED[0]]
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, number)
    code = ended(child)
    hurt = victim != child or code in (-number, 130)
    return code, phase if hurt else ""


def contents(root: Path) -> dict[str, str]:
    """Digests of all that must be the same, by file."""
    found: dict[str, str] = {}
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.relative_to(root).as_posix()
        if file.name in (".lock", "timings.jsonl", "report.html") or "/failed/" in name:
            continue
        if name.startswith("cache/lives/"):  # where finished lives lie: another folder, another name
            continue
        found[name] = hashlib.blake2b(_content(file), digest_size=16).hexdigest()
    return found


def _content(file: Path) -> bytes:
    import torch

    from strategies.parts.model import digest

    if file.suffix == ".pt":
        content = torch.load(file, weights_only=True)
        content["state"] = digest(content["state"])
        del content["files"]["timings.jsonl"]
        return repr(sorted(content.items())).encode()
    if file.suffix != ".json" or file.parent.name == "tokenizers":
        return file.read_bytes()
    data = json.loads(file.read_text(encoding="utf-8"))
    for key in ("created", "references", "digest", "date", "runs_done_when_criteria_were_declared", "failed"):
        data.pop(key, None)
    marks = data.get("files", {})
    marks.pop("timings.jsonl", None)
    for name in [name for name in marks if name.endswith(".pt")]:  # it holds the length of timings.jsonl
        del marks[name]
    return json.dumps(data).encode()


def readable(root: Path) -> Callable[[], None]:
    """What a child does to look at what a killed run has left."""

    def work() -> None:
        import lifelong

        for config in root.glob("runs/**/config.yaml"):
            lifelong.load_run(config.parent)

    return work


class Subject:
    """One configuration, with what it leaves when nobody disturbs it, and what it takes."""

    def __init__(self, name: str, folder: Path) -> None:
        import yaml

        self.name, self.folder = name, folder
        self.kind, data = SUBJECTS[name]
        self.file = folder / f"{data['name']}.yaml"
        self.file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        self._prepare(folder / "warm")
        if import_what_is_imported(command(self.kind, self.file, folder / "warm", None), folder / "log"):
            raise RuntimeError((folder / "log").read_text())
        self.expected = contents(folder / "warm")
        again, self.seconds, entries = self._undisturbed()
        self.entries = {phase: count for phase, count in entries.items() if count}
        if again != self.expected:
            raise RuntimeError(f"{name}: two lives that nobody disturbs differ")

    def _undisturbed(self) -> tuple[dict[str, str], float, dict[str, int]]:
        """Live once; return what is left, the CPU seconds of it and its workers, and what they noted down."""
        root, notes = self.folder / "whole", self.folder / "notes.json"
        self._prepare(root)
        child = in_child(command(self.kind, self.file, root, None, notes), self.folder / "log")
        _, status, usage = os.wait4(child, 0)
        if os.waitstatus_to_exitcode(status):
            raise RuntimeError((self.folder / "log").read_text())
        found = contents(root)
        shutil.rmtree(root)
        return found, usage.ru_utime + usage.ru_stime, json.loads(notes.read_text())

    def _prepare(self, root: Path) -> None:
        (root / "runs").mkdir(parents=True)
        (root / "cache").mkdir()

    def draw(self, dice: random.Random) -> Target:
        """Draw a moment in the first third of what a life takes: an attempt goes on where the last was hit."""
        if dice.random() < 0.5:
            return Target(dice.uniform(0, self.seconds / 3), dice.random() < 0.15)
        often = "keeping a training" in self.entries and dice.random() < 0.5
        phase = "keeping a training" if often else dice.choice(sorted(self.entries))
        delay = dice.choice([0.0, dice.uniform(0, 0.002), dice.uniform(0, 0.02)])
        return Target(None, False, phase, dice.randint(1, -(-self.entries[phase] // 3)), delay)

    def live(self, dice: random.Random, counts: Counts, most: int) -> None:
        """Live once, killed at most so often, and compare."""
        root = self.folder / "life"
        shutil.rmtree(root, ignore_errors=True)
        self._prepare(root)
        code, killed = 1, 0
        for _ in range(min(dice.randint(MOST_KILLS // 4, MOST_KILLS), most)):
            number = signal.SIGTERM if dice.random() < 0.25 else signal.SIGKILL
            target = self.draw(dice)
            _SHARED[1] = 0
            child = in_child(command(self.kind, self.file, root, target), self.folder / "log")
            code, phase = hit(child, target, number, dice)
            target.close()
            if killed:
                counts.add(1, "came back to", PLACES[_SHARED[1]])
            if phase:
                counts.add(1, "kills", self.name, number.name)
                counts.add(1, "phases", phase)
                killed += 1
                if dice.random() < 0.25 and ended(in_child(readable(root), self.folder / "log")):
                    counts.fail(f"{self.name}: what a kill has left cannot be read")
            if code == 0:
                break
        if code:
            code = ended(in_child(command(self.kind, self.file, root, None), self.folder / "log"))
        if code:
            counts.fail(f"{self.name}: exit code {code} in the end: {(self.folder / 'log').read_text()[-2000:]}")
        found = contents(root)
        differing = sorted(n for n in found.keys() | self.expected.keys() if found.get(n) != self.expected.get(n))
        counts.add(1, "lives", self.name)
        counts.add(len(found), "files", self.name)
        if differing:
            kept = self.folder / f"differs-{counts.get('lives', self.name)}"
            shutil.copytree(root, kept)
            counts.fail(f"{self.name}, after {killed} kills: {', '.join(differing[:5])} of {len(differing)}")


def main() -> int:
    parser = arguments(__doc__, minutes=60)
    parser.add_argument("--kills", type=int, default=30, help="of all calls together")
    parser.add_argument("--only", choices=SUBJECTS, nargs="+", default=list(SUBJECTS), help="some of them")
    options = parser.parse_args()
    counts = Counts(options.json, options.minutes)

    # once, and never used here: what a child computes, it computes as the first
    import cli.main  # noqa: F401
    import lifelong.report.html
    import lifelong.study.local
    import lifelong.study.study
    import lifelong.trackers.console
    import lifelong.verification.certificate  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    subjects = []
    for name in options.only:
        (folder / name).mkdir()
        subjects.append(Subject(name, folder / name))

    def missing() -> int:
        return options.kills - sum(sum(by.values()) for by in counts.data.get("kills", {}).values())

    counts.begin(options.minutes)
    turn = 0
    while (left := missing()) > 0 and counts.time_left:
        subject = subjects[turn % len(subjects)]
        number = counts.get("lives", subject.name)
        subject.live(random.Random(f"{options.seed}/{subject.name}/{number}"), counts, left)
        counts.save()
        turn += 1
    status = counts.close()
    if not status:
        shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    sys.exit(main())
