"""Thousands of requests: what an event, the plan, the files and the report cost, and whether an event stays as cheap.

    python tests/benchmarks/many_requests.py --folder DIR --json tests/benchmarks/results/many_requests.json
    python tests/benchmarks/many_requests.py --folder DIR --parts plan,naive
    python tests/benchmarks/many_requests.py --share 10

Glyphs arrive one by one (`online`), and deletions of single samples between them; every earlier request is measured
after 1, 2, 4, 8 ... more events (`evaluation.follow: geometric`).

- naive, replay (with finetune): 10,000 events with 3,300 requests, one after every other glyph up to the end.
- sisa, s3t: one experience of 10,800 glyphs, of which the script is to be told (Latin, Cyrillic ...), then 10,000
  requests. Their own training is told apart from all that is done around it: evaluation, rows, files, checkpoints.
- plan: what is done before the first event, for both streams.
- references: those of ten requests, drawn by name, for naive and replay, whose lives go on from where they ended.
- workers: naive's once more with an empty cache, by one process and by two, in wall time.
- report: reading the runs, and writing their reports.

Every part of a strategy lives in a process of its own, for its peak memory. Times are CPU times but where it says wall;
an event's is everything it costs: acting, evaluation, rows, files and checkpoints. Events of a kind (requests, glyphs
that are evaluated and that are not) are compared with their kind, by the median of the first thousand and of the last.
The same in units of a small calculation that is made after every twentieth event tells whether the machine was as fast
at both ends. Bytes are what the strategy's folder holds at the end.

With `--folder` what was measured stays there: a part that is done is not done again, one that was stopped goes on from
its last checkpoint, and the table has all parts that are there.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, machine, report, value

from lifelong.files import write_atomically

if TYPE_CHECKING:
    from lifelong.results.table import Row
    from lifelong.setup.preparation import Prepared
    from lifelong.trackers._base import RunInfo

GIB, MB = 2**30, 10**6
LEARNERS: dict[str, dict[str, Any]] = {
    "naive": {"learner": "naive", "unlearner": "none"},
    "replay": {
        "learner": {"name": "replay", "memory": 200},
        "unlearner": {"name": "finetune", "epochs": 1, "retained": "memory"},
    },
}
ISOLATED: dict[str, dict[str, Any]] = {
    "sisa": {"isolated": {"name": "sisa", "shards": 5, "slices": 2}},
    "s3t": {"isolated": {"name": "s3t", "shards": 5, "slices": 2, "sequences": 2, "rank": 4}},
}
LIVES = LEARNERS | ISOLATED
PARTS = ("plan", *LIVES, "references", "workers", "report")
FLAT, PLANNED_S, PEAK_GIB, SIZE_MB, REPORT_S, FASTER = 1.1, 20, 1, 300, 20, 1.25
"""Bars: times the first thousand, and so on; two workers are only started if they save a fifth of the time."""

Cost = dict[str, Any]


def config_of(name: str, share: int, place: Path) -> dict[str, Any]:
    """Return the run of one strategy, of which a share is lived; `place` is for its data."""
    common = {
        "name": "many",
        "model": {"name": "mlp", "hidden": [64]},
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.02},
        "strategies": {"it": LIVES[name]},
        "evaluation": {"every": 50, "probe": 300, "follow": "geometric", "batch_size": 1024},
        "references": {"kinds": ["retrained"], "most": 10},
    }
    asked = {"scope": "sample", "samples": 1}
    if name in LEARNERS:
        return common | {
            "source": {"name": "glyphs", "classes": 464 // share, "split": "pairs", "test_fraction": 0.1},
            "scenario": {"name": "online", "chunk": 1},
            "schedule": {"name": "periodic", **asked, "start": 20, "every": 2},
        }
    return common | {
        "source": {"name": "arrays", "path": str(scripts(1000 // share, place))},
        "scenario": {"name": "class-incremental", "experiences": 1},
        "schedule": {"name": "burst", **asked, "after": 1, "requests": 10_000 // share},
        "model": {"name": "mlp", "hidden": [16, 16]},
        "references": {"kinds": []},
    }


def scripts(characters: int, place: Path) -> Path:
    """Return a file of glyphs whose classes are scripts: of many classes, most of the time would go into outputs."""
    from streams.sources.glyphs import Config, load

    file = place / "scripts.npz"
    if not file.exists():
        source = load(Config(pool=2179, classes=characters, split="pairs", test_fraction=0.1))
        columns = {"x": source.x.numpy(), "y": source.superclass_ids[source.class_ids], "test": source.is_test}
        write_atomically(file, lambda handle: np.savez(handle, **columns))  # type: ignore[arg-type]
    return file


class _Lived(BaseException):
    """The last event is over; references are another part."""


class _Clock:
    """Notes in a file what every event costs: in the strategy, and in all; and now and then a small calculation."""

    def __init__(self, file: Path) -> None:
        self._file, self._own = file, 0.0
        self._last = self._began = 0.0
        self.referred: Cost = {}
        draw = torch.Generator().manual_seed(0)
        self._weights, self._rows = torch.randn(64, 64, generator=draw) / 8, torch.randn(32, 64, generator=draw)

    def notes(self, served: Callable[..., Any]) -> Callable[..., Any]:
        """Return `served`, which is all that a strategy does in an event, and note what it takes."""

        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            done = served(*arguments)
            self._own = time.process_time() - started
            return done

        return timed

    def events(self) -> np.ndarray:
        """Return for every event the seconds of the strategy, of everything, and of the calculation (or NaN)."""
        return np.loadtxt(self._file, ndmin=2)[:, 1:]

    def begin(self, info: RunInfo, first_event: int) -> None:
        lines = self._file.read_text().splitlines()[:first_event] if self._file.exists() else []
        self._file.write_text("".join(f"{line}\n" for line in lines))
        self._last, self._began = time.process_time(), time.monotonic()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        taken = time.process_time() - self._last
        unit = float("nan") if index % 20 else self._calculate()
        with self._file.open("a") as file:
            file.write(f"{index} {self._own:.6f} {taken:.6f} {unit:.6f}\n")
        self._own, self._last = 0.0, time.process_time()

    def _calculate(self) -> float:
        """Return what a calculation takes that is always the same: small products, and what Python does."""
        started = time.process_time()
        x = self._rows
        for _ in range(40):
            x = torch.tanh(x @ self._weights)
        for number in range(300):
            json.dumps({"event": number, "value": number / 7})
        return time.process_time() - started

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        self.referred = {"seconds": time.process_time() - self._last, "wall": time.monotonic() - self._began}

    def end(self) -> None:
        pass


def prepared_for(name: str, share: int, place: Path, cache: str = "cache") -> Prepared:
    """Return the run of a strategy, which finds in its cache nothing that others have computed."""
    os.environ["LIFELONG_CACHE"] = str(place / cache)
    from lifelong.config.run import RunConfig
    from lifelong.setup.preparation import prepare
    from streams.config import parse

    torch.set_num_threads(1)
    return prepare(parse(RunConfig, config_of(name, share, place)))


def plan(name: str, share: int, place: Path) -> Cost:
    """Return what is done before the first event; the glyphs have been drawn."""
    prepared_for(name, share, place)
    made: list[Prepared] = []
    seconds = cpu_seconds(lambda: made.append(prepared_for(name, share, place)))
    return {"seconds": seconds, "events": len(made[0].stream.events), "requests": len(made[0].stream.requests)}


def live(name: str, share: int, place: Path) -> Cost:
    """Live to the last event, or what is left until there, and return what it cost."""
    import lifelong.execution.life as life
    import strategies.step as stepping
    from lifelong.execution.runner import run_prepared
    from streams.events import DeletionRequest

    prepared, clock = prepared_for(name, share, place), _Clock(place / "events.txt")
    stepping._served = clock.notes(stepping._served)
    if name in LEARNERS:
        life.compare = _end_of_life  # type: ignore[assignment]
    with contextlib.suppress(_Lived):
        run_prepared(prepared, place / "lived", [clock])
    requests = np.array([isinstance(e, DeletionRequest) for e in prepared.stream.events])
    own, whole, unit = clock.events().T
    around = whole if name in LEARNERS else whole - own  # of isolated strategies their own training is apart
    kinds = 2 * requests + prepared.plan.measured
    tenths = np.array_split(np.arange(len(whole)), 10)
    first, last = (_middle(around, kinds, unit, tenths[part]) for part in (0, -1))
    own_first, own_last = (_middle(own, kinds, unit, tenths[part]) for part in (0, -1))
    return {
        "events": len(requests),
        "requests": int(requests.sum()),
        "first": first,
        "last": last,
        "flat": last["units"] / first["units"],
        "flat in seconds": last["seconds"] / first["seconds"],
        "own, flat": own_last["units"] / own_first["units"],
        "own seconds": float(own.sum()),
        "seconds around": float((whole - own).sum()),
        "size": _size(prepared.folder(place / "lived")),
    }


def _end_of_life(*arguments: object) -> None:
    """Stand in the place of references."""
    raise _Lived


def _middle(seconds: np.ndarray, kinds: np.ndarray, unit: np.ndarray, here: np.ndarray) -> dict[str, float]:
    """Return what an event takes among some: the medians of kinds, weighted by how often each comes in all.

    Args:
        seconds: ``[E]``.
        kinds: int ``[E]``.
        unit: ``[E]`` seconds of the small calculation, NaN where there was none.
        here: int, the events to look at.
    """
    rare = len(kinds) // 100  # the one experience of isolated streams
    shares = {kind: share for kind in np.unique(kinds) if (share := int((kinds == kind).sum())) > rare}
    sums = [share * np.median(seconds[here[kinds[here] == kind]]) for kind, share in shares.items()]
    middle, one = float(sum(sums) / sum(shares.values())), float(np.nanmedian(unit[here]))
    return {"seconds": middle, "unit": one, "units": middle / one, "mean": float(seconds[here].mean())}


def _size(run: Path) -> int:
    """Return the bytes of a strategy's folder."""
    return sum(f.stat().st_size for f in (run / "strategies" / "it").rglob("*") if f.is_file())


def refer(name: str, share: int, place: Path, to: str = "referred", workers: int = 1) -> Cost:
    """Go on with a copy of a life that has come to its end: compute its references, of which the cache has none."""
    from lifelong.execution.runner import run_prepared
    from lifelong.results.integrity import mark_of

    root = place / to
    if not root.exists():
        shutil.copytree(place / "lived", place / "copy", dirs_exist_ok=True)
        (place / "copy").rename(root)
    prepared, clock = prepared_for(name, share, place, f"cache-{to}"), _Clock(place / "referring.txt")
    done = run_prepared(prepared, root, [clock], workers=workers).summaries["it"]
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock.referred | {
        "seconds of others": others.ru_utime + others.ru_stime,
        "computed": done["references"]["computed"],
        "size": _size(prepared.folder(root)),
        "table": mark_of(prepared.folder(root) / "strategies" / "it" / "results.jsonl")["digest"],
    }


def tell(name: str, share: int, place: Path) -> Cost:
    """Read a run that is done, and write its report."""
    from lifelong.execution.runner import Run, load_run
    from lifelong.report.html import write_report

    root = place / ("referred" if name in LEARNERS else "lived")
    run: list[Run] = []
    read = cpu_seconds(lambda: run.append(load_run(next(root.glob("many-*")))))
    written = cpu_seconds(lambda: write_report(run[0], place / "report.html"))
    return {"seconds": read + written, "read": read, "bytes": (place / "report.html").stat().st_size}


def measured(work: Callable[..., Cost], *arguments: Any) -> Cost:
    """Do `work` in this process, and return what it cost with the most memory that the process held, in bytes."""
    started = time.process_time()
    cost = work(*arguments)
    spent = time.process_time() - started
    return cost | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "spent": spent}


def costs_of(part: str, share: int, folder: Path) -> dict[str, Cost]:
    """Return what a part costs, by strategy; each in a process of its own."""
    calls: dict[str, list[tuple[Any, ...]]] = {
        "plan": [(name, plan) for name in ("naive", "sisa")],
        "references": [(name, refer) for name in LEARNERS],
        "workers": [(f"{n}", refer, f"workers-{n}", n) for n in (1, 2)],
        "report": [(name, tell) for name in LIVES],
    }
    costs = {}
    for key, work, *more in calls.get(part, [(part, live)]):
        name = "naive" if part == "workers" else key
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            costs[key] = pool.submit(measured, work, name, share, place, *more).result()
    return costs


def results_of(costs: dict[str, dict[str, Cost]]) -> list[Result]:
    """Return what is claimed of the parts that are there."""
    results = [
        value(f"{name}: planned", [cost["seconds"]], PLANNED_S, "s") for name, cost in costs.get("plan", {}).items()
    ]
    for name in (name for name in LIVES if name in costs):
        cost = costs[name][name]
        all_of_it = [cost, *(costs[part][name] for part in ("references", "report") if name in costs.get(part, {}))]
        first, last, flat = cost["first"]["seconds"], cost["last"]["seconds"], cost["flat in seconds"]
        what = f"{name}: {cost['events']:,} events, {cost['requests']:,} requests, last tenth to first"
        results.append(Result(what, last, first, "s", flat, flat, flat, FLAT, True, 1))
        results.append(value(f"{name}: peak memory", [max(c["peak"] for c in all_of_it) / GIB], PEAK_GIB, "GiB"))
        results.append(value(f"{name}: on disk", [max(c.get("size", 0) for c in all_of_it) / MB], SIZE_MB, "MB"))
    results += [
        value(f"{name}: report", [cost["seconds"]], REPORT_S, "s") for name, cost in costs.get("report", {}).items()
    ]
    if "workers" in costs:
        one, two = (costs["workers"][n] for n in ("1", "2"))
        faster, same = one["wall"] / two["wall"], float(one["table"] != two["table"])
        claim = "references, wall time of one worker to that of two"
        results.append(Result(claim, two["wall"], one["wall"], "s", faster, faster, faster, FASTER, False, 1))
        results.append(value("tables that differ between one worker and two", [same], 0, ""))
    return results


def chosen(text: str) -> list[str]:
    """Return the parts that are named, in the order in which they need each other.

    Raises:
        ArgumentTypeError: there is no such part.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise ArgumentTypeError(f"no such part: {', '.join(unknown)}; choose among {', '.join(PARTS)}")
    return [part for part in PARTS if part in names]


def main() -> int:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--share", type=int, default=1, help="live one in so many events (10: gates do not apply)")
    parser.add_argument("--parts", type=chosen, default=list(PARTS), metavar="PART,PART", help=", ".join(PARTS))
    parser.add_argument("--folder", type=Path, help="where runs and costs are kept, and found again")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder /= f"one-in-{options.share}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "costs.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        for part in options.parts:
            if part not in kept:
                kept[part] = {"costs": costs_of(part, options.share, folder), "machine": machine()}
                write_atomically(file, json.dumps(kept, indent=1).encode())
                print({part: kept[part]["costs"]}, file=sys.stderr, flush=True)
        results = results_of({part: found["costs"] for part, found in kept.items()})
        return report(results, options.json, {"parts": {part: kept[part] for part in PARTS if part in kept}})


if __name__ == "__main__":
    sys.exit(main())
