"""Long streams: what an event costs late in life, against Avalanche and against our own beginning.

    python tests/benchmarks/long_streams.py
    python tests/benchmarks/long_streams.py --quick

Streams bring two random classes per event (SCoLe). Our side is the whole loop with evaluation, rows, recording and
checkpoints on disk; Avalanche's side trains and evaluates in-memory tensors with accuracy metrics only.

- growing: 200 events of 1000 Fashion-MNIST images, MLP 784-256-256-10, batch 64; every event adds a unit (the 200 test
  images of its classes), and everything seen is evaluated after each. Time of the whole run.
- ewc: the same without the growing units (5 fixed test sets); time per event, median of events 51 to 60.
- replay: 200 digits per event, MLP 64-64-10, batch 10, memory 200; time per event, median of events 391 to 400.
- flat: ours on the digits stream, 1000 events; mean time of events 901 to 1000 against events 1 to 100.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from _avalanche import in_memory_benchmark, make_strategy, quietly
from _common import Clock, Result, arguments, cpu_seconds, interleave, ratio, report
from torch import nn

from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.execution.runner import run_prepared
from lifelong.setup.build import make_setting
from lifelong.setup.preparation import Prepared, Strategies, prepare
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
    setting = make_setting(prepared.config, stream)
    strategies = Strategies(prepared.strategies.parts, setting)
    strategies.check(stream)
    return replace(
        prepared, stream=stream, stream_digest=stream.digest(), plan=plan, setting=setting, strategies=strategies
    )


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
    benchmark = in_memory_benchmark(source.inputs(), source.y, [e.sample_ids for e in stream.experiences], tests)
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


def late(seconds: list[float]) -> float:
    """What an event costs at the end of a life."""
    return statistics.median(seconds[-10:])


def growing_units(events: int, rounds: int) -> Result:
    """A whole run in which every event adds a unit."""
    prepared = growing(prepare_ours(FASHION, "naive", events))
    costs = interleave(
        {
            "ours": lambda: live(prepared)[0],
            "avalanche": lambda: live_avalanche(prepared, "naive", fashion_network(), grow=True)[0],
        },
        rounds,
        warm_up=False,
    )
    return ratio(f"{events} events, growing units, naive, whole run", costs["ours"], costs["avalanche"], 10)


def late_event(kind: dict[str, Any], name: str, events: int, gate: float, rounds: int) -> Result:
    """One event at the end of a stream."""
    prepared = prepare_ours(kind, name, events)
    make_network = fashion_network if kind is FASHION else digits_network
    costs = interleave(
        {
            "ours": lambda: late(live(prepared)[1]),
            "avalanche": lambda: late(live_avalanche(prepared, name, make_network(), grow=False)[1]),
        },
        rounds,
        warm_up=False,
    )
    return ratio(f"{name} at event {events}, per event", costs["ours"], costs["avalanche"], gate)


def flat(events: int, rounds: int) -> list[Result]:
    """Our last tenth of a long life against its first tenth."""
    tenth = events // 10
    results = []
    for name in LEARNERS:
        prepared = prepare_ours(DIGITS, name, events)
        early, last = [], []
        for _ in range(rounds):
            seconds = live(prepared)[1]
            early.append(statistics.mean(seconds[:tenth]))
            last.append(statistics.mean(seconds[-tenth:]))
        label = f"{name}, events {events - tenth + 1}-{events} against 1-{tenth}"
        results.append(ratio(label, last, early, 1.1, at_most=True))
    return results


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events (the gates do not apply)")
    parts = ("growing", "ewc", "replay", "flat")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts, help="run some parts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    many, sixty, four_hundred, thousand = ((20, 20, 40, 100), (200, 60, 400, 1000))[not options.quick]
    results: list[Result] = []
    if "growing" in options.only:
        results.append(growing_units(many, options.rounds))
    if "ewc" in options.only:
        results.append(late_event(FASHION, "ewc", sixty, 12, options.rounds))
    if "replay" in options.only:
        results.append(late_event(DIGITS, "replay", four_hundred, 40, options.rounds))
    if "flat" in options.only:
        results += flat(thousand, options.rounds)
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
