"""Events: late in a long life an event takes the time, the memory and the disk that it took early.

    python tests/reliability/events.py --events 10000 --json tests/reliability/results/events.json

Two classes of digits come again and again, and every tenth event is a request for a sample. Each strategy lives alone,
in a process of its own, with evaluation and records on disk; a request is measured again after 1, 2, 4, 8 ... events.
Of every tenth of the life the median event counts, learning and forgetting apart: what the strategy takes, and the
whole event, neither of which may grow. Seconds are CPU time, which grows where other processes crowd the caches. So
after every event a fixed calculation is timed too, and what an event takes is judged in units of that. Memory is what
the process has resident, and the blocks that Python has allocated, at the end of each tenth.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import Counts, arguments, ended, in_child

STRATEGIES: dict[str, Any] = {
    "naive, gradient ascent": {"learner": "naive", "unlearner": {"name": "gradient-ascent", "epochs": 1}},
    "ewc + replay, finetune on the memory": {
        "learner": [{"name": "ewc", "fisher": "batch"}, {"name": "replay", "memory": 100}],
        "unlearner": {"name": "finetune", "epochs": 1, "retained": "memory"},
    },
    "der-plus-plus, neggrad-plus on the memory": {
        "learner": {"name": "der-plus-plus", "memory": 100},
        "unlearner": {"name": "neggrad-plus", "epochs": 1, "retained": "memory"},
    },
}
MOST_TIME, MOST_MEMORY, MOST_DISK = 1.25, 4 * 2**20, 1.1
"""The last tenth against the second: time and bytes of a checkpoint as ratios, memory in bytes for 1,000 events.

The first tenth fills memories and caches. Time may grow a little: the number of requests that an event looks at grows
with the logarithm of its number (from 1.0 to 1.3 of them in 10,000 events, when every tenth is a request), and of a few
requests in a tenth of 1,000 events the median scatters by a tenth. Memory may grow by what is noted of every event,
some 2 kB: which samples were deleted when, and what is known of each request.
"""


def config_of(name: str, events: int) -> dict[str, Any]:
    learned = events * 9 // 10
    return {
        "name": "long",
        "scenario": {"name": "recurring", "tasks": learned, "classes_per_task": 2, "samples_per_class": 10},
        "schedule": {"name": "periodic", "scope": ["sample"], "samples": 1, "every": 9, "start": 9, "limit": 1_000},
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 1, "batch_size": 10, "lr": 0.02},
        "strategies": {"it": STRATEGIES[name]},
        "evaluation": {"probe": 100, "follow": "geometric"},
        "references": {"kinds": []},
    }


def calculate() -> None:
    """Do what training does, always as much of it."""
    import torch

    x, w = torch.ones(20, 64), torch.ones(64, 32, requires_grad=True)
    for _ in range(8):
        torch.relu(x @ w).sum().backward()  # type: ignore[no-untyped-call]


class Meter:
    """Notes CPU seconds of every event, and memory and the size of the newest checkpoint at the end of each tenth."""

    def __init__(self, events: int, runs: Path) -> None:
        self._tenth, self._runs, self._last = events // 10, runs, 0.0
        self.seconds: list[float] = []
        self.act: list[float] = []
        self.clock: list[float] = []
        self.blocks: list[int] = []
        self.resident: list[int] = []
        self.checkpoint: list[int] = []

    def stepped(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Note what the strategy's own part of an event takes."""

        def timed(*arguments: Any) -> Any:
            began = time.process_time()
            done = step(*arguments)
            self.act.append(time.process_time() - began)
            return done

        return timed

    def begin(self, info: object, first_event: int) -> None:
        self._last = time.process_time()

    def event(self, index: int, rows: object, seconds: float) -> None:
        self.seconds.append(time.process_time() - self._last)
        began = time.process_time()
        calculate()
        self.clock.append(time.process_time() - began)
        if index % self._tenth == self._tenth - 1:
            gc.collect()
            self.blocks.append(sys.getallocatedblocks())
            self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            self.checkpoint.append(max(f.stat().st_size for f in self._runs.rglob("event-*.pt")))
        self._last = time.process_time()

    def references(self, rows: object, seconds: float) -> None: ...

    def end(self) -> None: ...


def live(name: str, events: int, file: Path) -> None:
    """What a child does: live once, and write down what it took."""
    import lifelong
    import lifelong.execution.life as life
    from lifelong.execution.runner import run_prepared
    from lifelong.setup.preparation import prepare
    from streams.events import DeletionRequest

    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIFELONG_CACHE"] = f"{folder}/cache"
        before = time.process_time()
        prepared = prepare(lifelong.RunConfig.model_validate(config_of(name, events)))
        planned = time.process_time() - before
        forgets = [isinstance(e, DeletionRequest) for e in prepared.stream.events]
        meter = Meter(len(forgets), Path(folder))
        life.step = meter.stepped(life.step)
        run_prepared(prepared, folder, [meter])
    tenth = len(forgets) // 10
    medians: dict[str, list[float]] = {}
    for kind, wanted in (("learn", False), ("forget", True)):
        of_tenths = [
            [i for i in range(start, start + tenth) if forgets[i] == wanted] for start in range(0, 10 * tenth, tenth)
        ]
        for part, seconds in (("act", meter.act), ("event", meter.seconds)):
            for unit, per_event in (("s", seconds), ("units", np.divide(seconds, meter.clock).tolist())):
                medians[f"{kind}_{part}_{unit}"] = [
                    round(statistics.median(per_event[i] for i in chosen), 6) if chosen else 0.0 for chosen in of_tenths
                ]
    found = {"events": len(forgets), "requests": sum(forgets), "plan_s": round(planned, 2), **medians}
    found |= {"blocks": meter.blocks, "resident": meter.resident, "checkpoint": meter.checkpoint}
    file.write_text(json.dumps(found))


def judge(name: str, found: dict[str, Any], counts: Counts) -> None:
    for key in (f"{kind}_{part}_units" for kind in ("learn", "forget") for part in ("act", "event")):
        early, late = found[key][1], found[key][-1]
        if early and late > MOST_TIME * early:
            counts.fail(f"{name}: {key} of {found['events']} events grows from {early} to {late}")
    thousands = max(found["events"] / 1000, 1.0)
    grown = found["resident"][-1] - found["resident"][1]
    if grown > MOST_MEMORY * thousands:
        counts.fail(f"{name}: memory grows by {grown} bytes over {found['events']} events")
    if found["checkpoint"][-1] > MOST_DISK * found["checkpoint"][1]:
        counts.fail(f"{name}: a checkpoint grows from {found['checkpoint'][1]} to {found['checkpoint'][-1]} bytes")


def main() -> int:
    parser = arguments(__doc__, minutes=60)
    parser.add_argument("--events", type=int, default=300, help="of each life")
    options = parser.parse_args()
    counts = Counts(options.json, options.minutes)
    for name in STRATEGIES:
        if not counts.time_left:
            break
        with tempfile.TemporaryDirectory() as folder:
            file, log = Path(folder) / "found.json", Path(folder) / "log"
            code = ended(in_child(lambda name=name, file=file: live(name, options.events, file), log))
            if code:
                counts.fail(f"{name}: {log.read_text()[-2000:]}")
                continue
            found = json.loads(file.read_text())
        print(f"{name}: {found}", flush=True)
        judge(name, found, counts)
        counts.data.setdefault("lives", {}).setdefault(str(options.events), {})[name] = found
        counts.save()
    return counts.close()


if __name__ == "__main__":
    sys.exit(main())
