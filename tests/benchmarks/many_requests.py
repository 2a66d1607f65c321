"""Thousands of requests: what an event, the plan, the files and the report cost, and whether an event stays as cheap.

    python tests/benchmarks/many_requests.py --folder DIR
    python tests/benchmarks/many_requests.py --quick

Glyphs arrive one by one (`online`), and deletions of single samples between them; every earlier request is measured
after 1, 2, 4, 8 ... more events (`evaluation.follow: geometric`), and ten requests have references.

- learners: 10,000 events with 3,300 requests, one after every other glyph up to the end, for naive and for replay with
  finetune.
- isolated: one experience of 10,800 glyphs, then 10,000 requests, for sisa and s3t; their own training, which is what
  they do when an event comes, counts apart from evaluation, rows, files and checkpoints.

Every strategy lives in a process of its own, for its peak memory. Times are CPU times; an event's is everything it
costs: acting, evaluation, rows, files and checkpoints. Bytes are what the strategy's folder holds at the end.

With `--folder` what was measured stays there, and who is stopped goes on from there: a strategy that is done is not
lived again, and one that is not goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _common import Result, arguments, cpu_seconds, report, value

if TYPE_CHECKING:
    from lifelong.results.table import Row
    from lifelong.trackers._base import RunInfo

GIB, MB = 2**30, 10**6
LIVES: dict[str, dict[str, Any]] = {
    "naive": {"learner": "naive", "unlearner": "none"},
    "replay, finetune": {
        "learner": {"name": "replay", "memory": 200},
        "unlearner": {"name": "finetune", "epochs": 1, "retained": "memory"},
    },
    "sisa": {"isolated": {"name": "sisa", "shards": 5, "slices": 2}},
    "s3t": {"isolated": {"name": "s3t", "shards": 5, "slices": 2, "sequences": 2, "rank": 4}},
}
PARTS = {"learners": ("naive", "replay, finetune"), "isolated": ("sisa", "s3t")}


def config_of(name: str, share: int) -> dict[str, Any]:
    """Return the run of one strategy, of which a share is lived."""
    common = {
        "name": "many",
        "model": {"name": "mlp", "hidden": [64]},
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.02},
        "strategies": {"it": LIVES[name]},
        "evaluation": {"every": 50, "probe": 300, "follow": "geometric", "batch_size": 1024},
        "references": {"kinds": ["retrained"], "most": 10},
    }
    asked = {"scope": "sample", "samples": 1}
    if name in PARTS["learners"]:
        return common | {
            "source": {"name": "glyphs", "classes": 464 // share, "split": "pairs", "test_fraction": 0.1},
            "scenario": {"name": "online", "chunk": 1},
            "schedule": {"name": "periodic", **asked, "start": 20, "every": 2},
        }
    return common | {
        "source": {"name": "glyphs", "pool": 2179, "classes": 1000 // share, "split": "pairs", "test_fraction": 0.1},
        "scenario": {"name": "class-incremental", "experiences": 1},
        "schedule": {"name": "burst", **asked, "after": 1, "requests": 10_000 // share},
        "model": {"name": "mlp", "hidden": [16, 16]},
        "references": {"kinds": []},
    }


class _Clock:
    """Notes in a file what every event costs: in what the strategy does, and in all."""

    def __init__(self, file: Path) -> None:
        self._file, self._acted, self._last = file, 0.0, 0.0
        self.references_s = 0.0

    def acts(self, step: Any) -> Any:
        """Return `step`, and note what it takes."""

        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            done = step(*arguments)
            self._acted = time.process_time() - started
            return done

        return timed

    def events(self) -> list[tuple[float, float]]:
        """Return seconds of acting, and in all, of every event."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [(float(line.split()[1]), float(line.split()[2])) for line in lines]

    def begin(self, info: RunInfo, first_event: int) -> None:
        lines = self._file.read_text().splitlines()[:first_event] if self._file.exists() else []
        self._file.write_text("".join(f"{line}\n" for line in lines))
        self._last = time.process_time()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        with self._file.open("a") as file:
            file.write(f"{index} {self._acted:.6f} {time.process_time() - self._last:.6f}\n")
        self._last = time.process_time()

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        self.references_s = time.process_time() - self._last

    def end(self) -> None:
        pass


def live(name: str, share: int, place: str) -> dict[str, float]:
    """Live one life in this process, or what is left of it, and return what it cost."""
    folder = Path(place) / name.replace(", ", "-")
    done = folder / "cost.json"
    if done.exists():
        return json.loads(done.read_text())  # type: ignore[no-any-return]
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["LIFELONG_CACHE"] = str(folder / "cache")  # references of others are not found
    from lifelong.config.run import RunConfig
    from lifelong.execution import life
    from lifelong.execution.runner import load_run, run_prepared
    from lifelong.report.html import write_report
    from lifelong.setup.preparation import prepare
    from streams.config import parse

    torch.set_num_threads(1)
    config, clock = parse(RunConfig, config_of(name, share)), _Clock(folder / "events.txt")
    life.step = clock.acts(life.step)  # type: ignore[attr-defined]
    prepare(config)  # draws the glyphs, once
    prepared: list[Any] = []
    planned = cpu_seconds(lambda: prepared.append(prepare(config)))
    run_prepared(prepared[0], folder, [clock])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    run = prepared[0].folder(folder)
    size = sum(f.stat().st_size for f in (run / "strategies" / "it").rglob("*") if f.is_file())
    reported = cpu_seconds(lambda: write_report(load_run(run)))
    events, tenth = clock.events(), len(prepared[0].stream.events) // 10
    per_event = [whole if name in PARTS["learners"] else whole - acted for acted, whole in events]
    # The first events load what later ones have: libraries, and what torch prepares. The last looks at all requests.
    early, late = (sum(part) / len(part) for part in (per_event[10 : 10 + tenth], per_event[-tenth - 1 : -1]))
    cost = {
        "events": len(events),
        "requests": len(prepared[0].stream.requests),
        "planned": planned,
        "early": early,
        "late": late,
        "acted": sum(acted for acted, _ in events),
        "measured": sum(whole - acted for acted, whole in events),
        "last": events[-1][1],
        "references": clock.references_s,
        "peak": peak,
        "size": size,
        "report": reported,
    }
    done.write_text(json.dumps(cost))
    return cost


def results_of(name: str, cost: dict[str, float]) -> list[Result]:
    """Return what is claimed of one life."""
    print({name: cost}, file=sys.stderr)
    flat = cost["late"] / cost["early"]
    events = f"{name}: {cost['events']:,.0f} events, {cost['requests']:,.0f} requests"
    return [
        Result(f"{events}, last tenth to first", cost["late"], cost["early"], "s", flat, flat, flat, 1.1, True, 1),
        value(f"{name}: planned", [cost["planned"]], 20, "s"),
        value(f"{name}: peak memory", [cost["peak"] / GIB], 1, "GiB"),
        value(f"{name}: on disk", [cost["size"] / MB], 300, "MB"),
        value(f"{name}: report", [cost["report"]], 20, "s"),
    ]


def main() -> int:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events (the gates do not apply)")
    parser.add_argument("--only", choices=LIVES, nargs="+", default=list(LIVES), help="some strategies")
    parser.add_argument("--folder", type=Path, help="where runs are kept, and found again")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
        for name in options.only:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results += results_of(name, pool.apply(live, (name, share, str(folder))))
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
