"""Flips: one bit is turned over in a file of a run or a study, and is noticed, or changes nothing.

    python tests/reliability/flips.py --flips 1000 --json tests/reliability/results/flips.json

A file, a byte and a bit are drawn by name. Of a run that was stopped, `resume` must refuse the folder, or end with the
bytes of the run that was never stopped. Of a run that is finished, `load_run` (which every command that reads runs
calls) must refuse the folder, or return the very same rows, summaries and configuration. Of a study, `resume_study`
and what a report gathers must refuse the folder or a run, or say the very same. Of the cache, a new run must end with
the same bytes. Each trial is a process of its own.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import Counts, arguments, ended, import_what_is_imported, in_child
from kills import DIGITS, STUDY, TEXT, TWO, contents

NOTICED, SAME, DIFFERS, CRASHED = 2, 0, 3, 4
CONFIG: dict[str, Any] = DIGITS | {
    "name": "flipped",
    "strategies": {**TWO, "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2}}},
    "references": {"kinds": ["retrained"]},
    "recording": {"keep": "all"},
}
WORST = DIGITS | {
    "name": "flipped-selection",
    "schedule": {"name": "worst-case", "samples": 5},
    "strategies": {"naive-retrain": {"learner": "naive", "unlearner": "retrain"}},
    "references": {"kinds": ["retrained"]},
}
FEATURES = DIGITS | {
    "name": "flipped-features",
    "features": {"name": "mlp", "hidden": [16]},
    "model": {"name": "mlp", "hidden": []},
    "strategies": {"naive-retrain": {"learner": "naive", "unlearner": "retrain"}},
    "references": {"kinds": ["retrained"]},
}
STOPPED_AFTER = (1, 3, 5)
"""Events: the second lesson, which keeps two checkpoints; a lesson after a request; and a request, which keeps one."""


class Stop(BaseException):
    """The process ends here."""


def parsed(config: dict[str, Any]) -> Any:
    import lifelong

    return lifelong.RunConfig.model_validate(config)


def run(root: Path, config: dict[str, Any], stop_after: int | None = None) -> Callable[[], None]:
    """What a child does: run, and stop right after that event of the last strategy is saved."""

    def work() -> None:
        import lifelong
        import lifelong.results.record as record

        os.environ["LIFELONG_CACHE"] = str(root / "cache")
        save, last = record.Record.save, list(config["strategies"])[-1]

        def stopping(self: Any, checkpoint: Any, must: bool) -> None:
            save(self, checkpoint, must)
            if checkpoint.event == stop_after and self.folder.name == last:
                raise Stop

        if stop_after is not None:
            record._PATIENCE = 0.0
            record.Record.save = stopping  # type: ignore[method-assign]
        try:
            lifelong.run(parsed(config), root / "runs")
        except Stop:
            sys.exit(0)

    return work


def judged(work: Callable[[], bool]) -> Callable[[], None]:
    """What a child does: say whether all is the same, or that an error of the program's own came."""

    def child() -> None:
        from streams.errors import LifelongError

        try:
            same = work()
        except LifelongError as error:
            print(f"noticed: {error}")
            sys.exit(NOTICED)
        sys.exit(SAME if same else DIFFERS)

    return child


def resumes(root: Path, expected: dict[str, str]) -> Callable[[], bool]:
    def work() -> bool:
        import lifelong

        os.environ["LIFELONG_CACHE"] = str(root / "cache")
        (folder,) = (root / "runs").iterdir()
        lifelong.resume(folder)
        return contents(root / "runs") == expected

    return work


def loads(root: Path, expected: Any) -> Callable[[], bool]:
    def work() -> bool:
        (folder,) = (root / "runs").iterdir()
        return read(folder) == expected

    return work


def read(folder: Path) -> Any:
    """All that a finished run says."""
    import lifelong

    run = lifelong.load_run(folder)
    return run.config, run.summaries, {name: list(table.rows) for name, table in run.tables.items()}


def opens(root: Path, expected: Any) -> Callable[[], bool]:
    def work() -> bool:
        (folder,) = (root / "runs").glob("study-*/study.json")
        return opened(folder.parent) == expected

    return work


def opened(folder: Path) -> Any:
    """All that a study says: what it declared, what came out, and what a report is made of."""
    from lifelong.report.gathering import gather_lives
    from lifelong.results.integrity import read_json
    from lifelong.study.study import resume_study

    study = resume_study(folder)
    outcome, kept = study.outcome(), read_json(folder / "verdicts.json", "")
    for said in (outcome, kept):
        said.pop("date")
    lives = gather_lives(study)
    series = [[point.lives[name] for name in sorted(point.lives)] for point in lives.points]
    return outcome, kept, repr((lives.verdicts, lives.differences, lives.manifests, series))


def studied(root: Path) -> Callable[[], None]:
    """What a child does: live through a study and judge it."""

    def work() -> None:
        from lifelong.study.jobs import execute
        from lifelong.study.study import Study

        os.environ["LIFELONG_CACHE"] = str(root / "cache")
        study = Study(STUDY | {"name": "flipped-study"}, root=root / "runs")
        for job in study.jobs:
            if error := execute(job).error:
                raise RuntimeError(error)
        study.collect()

    return work


def runs_anew(root: Path, config: dict[str, Any], expected: dict[str, str]) -> Callable[[], bool]:
    def work() -> bool:
        run(root, config)()
        return contents(root / "runs") == expected

    return work


class Place:
    """Folders to flip a bit in, and what must come of it.

    Attributes:
        name: in the counts.
        root: what is copied for every trial.
        files: which of its files may be hit.
        judge: makes what a child does with the copy.
    """

    def __init__(self, name: str, root: Path, files: Callable[[Path], bool], judge: Callable[[Path], Any]) -> None:
        self.name, self.root, self.judge = name, root, judge
        self.files = [f.relative_to(root) for f in sorted(root.rglob("*")) if f.is_file() and files(f)]
        if not all((root / file).stat().st_size for file in self.files):
            self.files = [file for file in self.files if (root / file).stat().st_size]

    def kind(self, file: Path) -> str:
        """Files of one kind are counted together."""
        parent = file.parent.name
        return f"{parent}/*{file.suffix}" if parent in ("checkpoints", "pieces", "details", *CACHED) else file.name


OF_RUNS = ("config.yaml", "stream.json", "manifest.json", "done.json", "columns.bin", "timings.jsonl")
READ_BY_STUDIES = ("study.json", "verdicts.json", *OF_RUNS)
CACHED = ("references", "features", "tokenizers", "selections")


def in_runs(file: Path) -> bool:
    return "cache" not in file.parts and file.name not in (".lock", "report.html")


def places(folder: Path) -> list[Place]:
    """Live all runs once, each in a process of its own, and return what bits are flipped in."""

    def lived(name: str, config: dict[str, Any], stop_after: int | None = None) -> Path:
        root = folder / name
        (root / "runs").mkdir(parents=True)
        if code := import_what_is_imported(run(root, config, stop_after), folder / "log"):
            raise RuntimeError(f"{name}: {code}\n{(folder / 'log').read_text()}")
        return root

    whole = lived("whole", CONFIG)
    expected, (run_folder,) = contents(whole / "runs"), (whole / "runs").iterdir()
    shown = read(run_folder)
    found = [Place("a finished run", whole, in_runs, lambda root: loads(root, shown))]
    for event in STOPPED_AFTER:
        root = lived(f"stopped-{event}", CONFIG, event)
        found.append(Place("a stopped run", root, in_runs, lambda root: resumes(root, expected)))
    root = folder / "study"
    (root / "runs").mkdir(parents=True)
    if import_what_is_imported(studied(root), folder / "log"):
        raise RuntimeError((folder / "log").read_text())
    (declared,) = (root / "runs").glob("study-*/study.json")
    told = opened(declared.parent)
    found.append(Place("a study", root, lambda file: file.name in READ_BY_STUDIES, lambda root: opens(root, told)))
    for name, config in (("features", FEATURES), ("selections", WORST), ("tokenizers", TEXT), ("references", CONFIG)):
        root = whole if name == "references" else lived(name, config)
        cache = folder / f"cache-{name}"
        shutil.copytree(root / "cache", cache / "cache")
        result = contents(root / "runs")
        found.append(Place("the cache", cache, _within(name), _anew(config, result)))
    return found


def _within(name: str) -> Callable[[Path], bool]:
    return lambda file: file.parent.name == name


def _anew(config: dict[str, Any], expected: dict[str, str]) -> Callable[[Path], Callable[[], bool]]:
    return lambda root: runs_anew(root, config, expected)


def trial(place: Place, dice: random.Random, folder: Path) -> tuple[str, int, str]:
    """Flip one bit; return the kind of file, the exit code, and where it was."""
    kinds: dict[str, list[Path]] = {}
    for file in place.files:
        kinds.setdefault(place.kind(file), []).append(file)
    kind = dice.choice(sorted(kinds))  # files of a kind that is large or many do not push out the others
    file, copy = dice.choice(kinds[kind]), folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place.root, copy)
    content = bytearray((copy / file).read_bytes())
    at, bit = dice.randrange(len(content)), dice.randrange(8)
    content[at] ^= 1 << bit
    (copy / file).write_bytes(content)
    code = ended(in_child(judged(place.judge(copy)), folder / "log"))
    return kind, code, f"bit {bit} of byte {at} of {file}"


def main() -> int:
    parser = arguments(__doc__, minutes=60)
    parser.add_argument("--flips", type=int, default=40, help="of all calls together")
    options = parser.parse_args()
    counts = Counts(options.json, options.minutes)

    import lifelong.execution.runner  # noqa: F401  (once, for all children)

    folder = Path(tempfile.mkdtemp(prefix="flips-"))
    there = places(folder)
    counts.begin(options.minutes)
    while (number := counts.get("flips")) < options.flips and counts.time_left:
        dice = random.Random(f"{options.seed}/flip-{number}")
        place = dice.choice(there)
        (folder / "log").write_text("")
        kind, code, where = trial(place, dice, folder)
        counts.add(1, "flips")
        names = {NOTICED: "refused", SAME: "same result"}
        counts.add(1, "files", place.name, kind, names.get(code, "FAILED"))
        if code not in names:
            said = "another result" if code == DIFFERS else (folder / "log").read_text().strip()[-300:]
            counts.fail(f"{place.name}, {where}: {said}")
        if number % 10 == 9:
            counts.save()
    shutil.rmtree(folder)
    return counts.close()


if __name__ == "__main__":
    sys.exit(main())
