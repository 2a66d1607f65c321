"""Long streams: what an event costs late in life, against Avalanche and against our own beginning.

    python tests/benchmarks/long_streams.py
    python tests/benchmarks/long_streams.py --quick

Streams bring two random classes per event (SCoLe). Our side is the whole loop with evaluation, rows, recording and
checkpoints on disk; Avalanche's side trains and evaluates in-memory tensors with accuracy metrics only.

- growing: 200 events of 1000 Fashion-MNIST images, MLP 784-256-256-10, batch 64; every event adds a unit (the 200 test
  images of its classes), and everything seen is evaluated after each. Time of the whole run.
- EWC: the same without the growing units (5 fixed test sets); time per event, median of events 51 to 60.
- Replay: 200 digits per event, MLP 64-64-10, batch 10, memory 200; time per event, median of events 391 to 400.
- flat: ours on the digits stream, 1000 events; mean time of events 901 to 1000 against events 1 to 100.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from _avalanche import in_memory_benchmark, make_strategy, quietly
from _common import Result, arguments, cpu_seconds, interleave, ratio, report
from torch import nn

from lifelong.build import make_setting
from lifelong.config import RunConfig
from lifelong.evaluation import plan_evaluation
from lifelong.preparation import Prepared, prepare
from lifelong.runner import run_prepared
from lifelong.table import Row
from lifelong.trackers._base import RunInfo
from streams.config import parse
from streams.events import Unit
from streams.stream import Stream

LEARNERS: dict[str, Any] = {
    "naive": "naive",
    "ewc": {"name": "ewc", "strength": 10.0, "fisher": "batch", "fisher_batch": 64},
    "replay": {"name": "replay", "memory": 200},
}
FASHION: dict[str, Any] = {
    "source": {"name": "fashion-mnist", "test_limit": 100},
    "model": {"name": "mlp", "hidden": [256, 256]},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.01, "momentum": 0.9},
    "samples_per_class": 500,
}
DIGITS: dict[str, Any] = {
    "source": "digits",
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 1, "batch_size": 10, "lr": 0.01, "momentum": 0.9},
    "samples_per_class": 100,
}


class Clock:
    """A tracker that notes the CPU time at the end of every event."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def begin(self, info: RunInfo, first_event: int) -> None:
        self._last = time.process_time()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        now = time.process_time()
        self.seconds.append(now - self._last)
        self._last = now

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        pass

    def end(self) -> None:
        pass


def prepare_ours(kind: dict[str, Any], name: str, events: int) -> Prepared:
    """Return our run of one strategy; evaluated are the classes' test sets, and nothing else."""
    options = dict(kind)
    scenario = {"name": "recurring", "tasks": events, "samples_per_class": options.pop("samples_per_class")}
    config = options | {
        "scenario": scenario,
        "strategies": {name: {"learner": LEARNERS[name], "unlearner": "none"}},
        "evaluation": {"probe": 0},
        "references": {"kinds": []},
    }
    return prepare(parse(RunConfig, config))


def growing(prepared: Prepared) -> Prepared:
    """Return the same run with a unit for every event: the test samples of its classes."""
    old, source = prepared.stream, prepared.stream.source
    units = [
        Unit(e.name, e.units, np.flatnonzero(np.isin(source.class_ids, e.units) & source.is_test))
        for e in old.experiences
    ]
    events = tuple(replace(e, units=(i,)) for i, e in enumerate(old.experiences))
    stream = Stream(source, tuple(units), events)
    plan = plan_evaluation(stream, prepared.config.evaluation)
    return replace(prepared, stream=stream, plan=plan, setting=make_setting(prepared.config, stream))


def live(prepared: Prepared) -> tuple[float, list[float]]:
    """Live one life on disk; return its CPU seconds, and those of each event."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        total = cpu_seconds(lambda: run_prepared(prepared, folder, [clock]))
    return total, clock.seconds


def live_avalanche(prepared: Prepared, name: str, network: nn.Module, grow: bool) -> tuple[float, list[float]]:
    """The same life under Avalanche: all seen units are evaluated, or five fixed pairs of classes."""
    stream, training = prepared.stream, prepared.config.training
    source = stream.source
    pairs = [np.isin(source.class_ids, (2 * i, 2 * i + 1)) for i in range(5)]
    tests = [u.test_ids for u in stream.units] if grow else [np.flatnonzero(p & source.is_test) for p in pairs]
    benchmark = in_memory_benchmark(source.x, source.y, [e.sample_ids for e in stream.experiences], tests)
    seconds: list[float] = []
    with quietly():
        strategy = make_strategy(name, network, training.batch_size, memory=200)
        for number, experience in enumerate(benchmark.train_stream, 1):
            started = time.process_time()
            strategy.train(experience)
            strategy.eval(benchmark.test_stream[:number] if grow else benchmark.test_stream)
            seconds.append(time.process_time() - started)
    return sum(seconds), seconds


def fashion_network() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def digits_network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def against_avalanche(scale: float, rounds: int) -> list[Result]:
    """The three comparisons with Avalanche; `scale` shortens the streams."""
    many, sixty, four_hundred = (max(20, round(n * scale)) for n in (200, 60, 400))
    grown = growing(prepare_ours(FASHION, "naive", many))
    ewc = prepare_ours(FASHION, "ewc", sixty)
    replay = prepare_ours(DIGITS, "replay", four_hundred)

    def late(seconds: list[float]) -> float:
        return statistics.median(seconds[-10:])

    costs = interleave(
        {
            "growing": lambda: live(grown)[0],
            "growing, avalanche": lambda: live_avalanche(grown, "naive", fashion_network(), grow=True)[0],
            "ewc": lambda: late(live(ewc)[1]),
            "ewc, avalanche": lambda: late(live_avalanche(ewc, "ewc", fashion_network(), grow=False)[1]),
            "replay": lambda: late(live(replay)[1]),
            "replay, avalanche": lambda: late(live_avalanche(replay, "replay", digits_network(), grow=False)[1]),
        },
        rounds,
        warm_up=False,
    )
    return [
        ratio(f"{many} events, growing units, naive, whole run", costs["growing"], costs["growing, avalanche"], 10),
        ratio(f"EWC at event {sixty}, per event", costs["ewc"], costs["ewc, avalanche"], 12),
        ratio(f"replay on digits at event {four_hundred}, per event", costs["replay"], costs["replay, avalanche"], 40),
    ]


def against_the_beginning(scale: float, rounds: int) -> list[Result]:
    """Our last tenth of a long life against its first tenth."""
    events = max(100, round(1000 * scale))
    tenth = events // 10
    results = []
    for name in LEARNERS:
        prepared = prepare_ours(DIGITS, name, events)
        early, late = [], []
        for _ in range(rounds):
            seconds = live(prepared)[1]
            early.append(statistics.mean(seconds[:tenth]))
            late.append(statistics.mean(seconds[-tenth:]))
        label = f"{name}, events {events - tenth + 1}-{events} against 1-{tenth}"
        results.append(ratio(label, late, early, 1.1, at_most=True))
    return results


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events (the gates do not apply)")
    parser.add_argument("--only", choices=("avalanche", "flat"), help="run one half")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scale = 0.1 if options.quick else 1.0
    results: list[Result] = []
    if options.only != "flat":
        results += against_avalanche(scale, options.rounds)
    if options.only != "avalanche":
        results += against_the_beginning(scale, options.rounds)
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
