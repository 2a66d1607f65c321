"""What studies cost: two cores against one after another, the study layer itself, and a table of 1,000 runs.

    python tests/benchmarks/study.py
    python tests/benchmarks/study.py --only table

The study has 2 scenarios, 4 strategies and 5 seeds on digits. "One after another" is the same jobs in a loop in one
process; every side starts from an empty cache in processes of its own, so that imports count on both. The ratio of two
cores is of wall time and wants an idle machine; all others are of CPU time, that of the fork server and its workers
included. The table is 1,000 lives of 100 events (links to the files of a few real
lives): all of it as columns with the verdicts, and the report.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import ROOT, arguments, interleave, ratio, report, value

GATE, OVERHEAD, SECONDS, GIBIBYTES = 1.7, 1.05, 20.0, 2.0
STRATEGIES = {
    "naive-none": {"learner": "naive", "unlearner": "none"},
    "replay-finetune": {"learner": "replay", "unlearner": {"name": "finetune", "retained": "memory", "epochs": 10}},
    "replay-retrain": {"learner": "replay", "unlearner": "retrain"},
    "ewc-retrain": {"learner": "ewc", "unlearner": "retrain"},
}
STUDY: dict[str, Any] = {
    "name": "bench",
    "claim": "cores are used",
    "base": "quickstart",
    "set": {"references.kinds": ["retrained"]},
    "grid": {"scenario.experiences": [5, 10]},
    "strategies": STRATEGIES,
    "seeds": 5,
    "criteria": [
        {"name": "c", "metric": "average_accuracy", "of": "replay-retrain", "minus": "naive-none", "above": 0.0}
    ],
}
# Nearly four times the compute. With ten experiences some seeds ask for a user who has nothing left; such streams are
# refused, as they should be, and left out here.
LONGER: dict[str, Any] = STUDY | {"seeds": [s for s in range(24) if s not in (9, 11, 17, 18, 19)]}
MANY: dict[str, Any] = STUDY | {
    "base": {
        "name": "long",
        "source": "digits",
        "scenario": {"name": "online", "experiences": 10, "chunk": 15},
        "schedule": {"name": "periodic", "every": 10, "scope": "sample", "count": 5},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 1, "batch_size": 16},
        "references": {"kinds": ["retrained"]},
    },
    "set": {},
    "grid": {},
    "seeds": 250,
}
LOOP = """
import json, sys
from lifelong.study.jobs import execute
from lifelong.study.study import Study
study = Study(json.loads(sys.argv[1]), root=sys.argv[2])
assert not [r.error for r in map(execute, study.jobs) if r.error]
"""
POOL = """
import json, sys
if __name__ == "__main__":
    from lifelong.study.forkserver import start_forkserver
    start_forkserver()  # as the command does
    from lifelong.study.study import Study
    study = Study(json.loads(sys.argv[1]), root=sys.argv[2])
    assert not [r.error for r in study.run(workers=int(sys.argv[3])) if r.error]
"""
TABLE = """
import json, resource, sys, time
from lifelong.study.study import Study
study = Study(json.loads(sys.argv[1]), root=sys.argv[2])
began = time.process_time()
if sys.argv[3] == "frame":
    frame = study.frame()
    count = len(frame["value"])
    assert study.verdicts()[0].estimate.n == 250
else:
    from lifelong.report.study import write_study_report
    count = write_study_report(study).stat().st_size
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps([count, time.process_time() - began, used]))
"""


def timed(program: str, study: dict[str, Any], *options: str) -> tuple[float, float]:
    """Run a study in an empty folder; return wall and CPU seconds of all processes."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "program.py"
        script.write_text(program, encoding="utf-8")
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, str(script), json.dumps(study), folder, *options]
        subprocess.run(command, check=True, env=environment(folder), stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        reap()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return wall, cpu


def adopt() -> None:
    """Become the parent of what children leave behind, so that the CPU time of all of it is counted here."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def reap() -> None:
    """Wait for everything that children have left behind."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def environment(folder: str) -> dict[str, str]:
    """Return an environment with an empty cache and one thread for everything."""
    return os.environ | {"LIFELONG_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def synthesise(folder: Path) -> None:
    """Fill a study folder with links to the files of one real run per kind of job."""
    from lifelong.study.jobs import Job, execute
    from lifelong.study.study import Study

    os.environ["LIFELONG_CACHE"] = str(folder / "cache")
    jobs = Study(MANY, root=folder).jobs
    real: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        like = real.setdefault(tuple(job.config["strategies"]), job)
        if like is job:
            assert execute(job).error is None
            continue
        for file in like.folder.rglob("*"):
            if file.is_file() and file.suffix != ".pt":
                there = job.folder / file.relative_to(like.folder)
                there.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, there)


def table(what: str, folder: Path) -> tuple[int, float, float]:
    """Load everything in a process of its own; return how much it is, CPU seconds and GiB."""
    command = [sys.executable, "-c", TABLE, json.dumps(MANY), str(folder), what]
    done = subprocess.run(command, check=True, env=environment(str(folder)), capture_output=True, text=True)
    count, seconds, used = json.loads(done.stdout)
    return int(count), float(seconds), float(used)


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--only", choices=["cores", "table"], help="leave the other part out")
    options = parser.parse_args()
    adopt()
    results = []
    if options.only != "table":
        costs: dict[str, list[tuple[float, float]]] = {n: [] for n in ("loop", "one", "two", "long loop", "long")}

        def side(name: str, program: str, *workers: str, study: dict[str, Any] = STUDY) -> float:
            costs[name].append(timed(program, study, *workers))
            return costs[name][-1][0]

        interleave(
            {
                "loop": lambda: side("loop", LOOP),
                "one": lambda: side("one", POOL, "1"),
                "two": lambda: side("two", POOL, "2"),
            },
            options.rounds,
            warm_up=False,
        )
        interleave(
            {
                "long loop": lambda: side("long loop", LOOP, study=LONGER),
                "long": lambda: side("long", POOL, "1", study=LONGER),
            },
            options.rounds,
            warm_up=False,
        )
        for name, found in costs.items():
            print(name, [f"{w:.1f} s wall, {c:.1f} s CPU" for w, c in found])
        wall = {name: [w for w, _ in found] for name, found in costs.items()}
        cpu = {name: [c for _, c in found] for name, found in costs.items()}
        results += [
            ratio("2 workers against one after another (wall)", wall["two"], wall["loop"], GATE),
            ratio("study layer, 1 worker (CPU)", cpu["one"], cpu["loop"], OVERHEAD, at_most=True),
            ratio("study layer, 1 worker, 19 seeds (CPU)", cpu["long"], cpu["long loop"], OVERHEAD, at_most=True),
        ]
    if options.only != "cores":
        with tempfile.TemporaryDirectory() as place:
            synthesise(Path(place))
            for what, name in (("frame", "rows as columns, and verdicts"), ("report", "report")):
                found = [table(what, Path(place)) for _ in range(options.rounds)]
                print(f"{name}: {found[0][0]:,} {'rows' if what == 'frame' else 'bytes'}")
                results.append(value(f"1,000 lives of 100 events: {name}", [s for _, s, _ in found], SECONDS, "s"))
                results.append(value(f"1,000 lives of 100 events: {name}", [g for _, _, g in found], GIBIBYTES, "GiB"))
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
