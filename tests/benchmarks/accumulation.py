"""Long recurring streams: what a task costs late in life, against Avalanche, and what methods add to a step.

    python tests/benchmarks/accumulation.py
    python tests/benchmarks/accumulation.py --quick

- flat: 1,000 tasks of 10 out of 100 glyph classes (about 120 images each), MLP 784-100-100-673, batch 16, evaluated on
  all 100 classes every 10 tasks; the whole loop, with rows, recording and checkpoints on disk. CPU time of a task,
  evaluation included: the last quarter of the stream against the first.
- against Avalanche: the same stream under Avalanche's EWC (as it comes: one penalty per task) and replay, in-memory
  tensors, accuracy only, evaluated every 10 tasks as well. Avalanche's side lives the first 60 tasks (EWC)
  or 400 (replay), and the time per task is that of the last 10 of these on both sides. Both grow with the number of
  tasks; what Avalanche would take for all 1,000 is not measured.
- refresh: steps with refresh against those of its host alone. Its Fisher pass after an experience is left out.
- Fisher: the squared per-sample gradients (true labels) of 512 images, against one backward per image.
- online-ewc: bytes of state late in the stream against early.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _avalanche import in_memory_benchmark, make_strategy, quietly
from _common import Clock, Result, arguments, cpu_seconds, interleave, ratio, report
from torch import nn

from lifelong.config.run import RunConfig
from lifelong.execution.runner import run_prepared
from lifelong.models import lenet, mlp
from lifelong.setup.preparation import Prepared, prepare
from strategies.base import Plugin, Setting
from strategies.learner import SGDLearner
from strategies.learners import naive, refresh, replay
from strategies.objectives.classification import Classification
from strategies.parts.model import FlatModel
from strategies.parts.weights.fisher import diagonal_fisher
from streams.config import parse
from streams.data import Data
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals

EVERY = 10
AGAINST = {"ewc": 60, "replay": 400}
LEARNERS: dict[str, Any] = {
    "naive": "naive",
    "replay": {"name": "replay", "memory": 200},
    "ewc": {"name": "ewc", "strength": 10.0, "fisher": "batch", "fisher_batch": 16},
    "online-ewc": {"name": "online-ewc", "strength": 10.0},
}


def prepare_ours(name: str, tasks: int) -> Prepared:
    config = {
        "source": {"name": "glyphs", "pool": 673},
        "scenario": {"name": "recurring", "tasks": tasks, "classes": 100, "classes_per_task": 10},
        "model": {"name": "mlp", "hidden": [100, 100]},
        "training": {"epochs": 1, "batch_size": 16, "lr": 0.01, "momentum": 0.9},
        "strategies": {name: {"learner": LEARNERS[name], "unlearner": "none"}},
        "evaluation": {"every": EVERY, "probe": 0},
        "references": {"kinds": []},
    }
    return prepare(parse(RunConfig, config))


def live(prepared: Prepared) -> Clock:
    """Live one life on disk."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run_prepared(prepared, folder, [clock])
    return clock


def live_avalanche(prepared: Prepared, name: str, tasks: int) -> list[float]:
    """CPU seconds of each of the first `tasks` tasks under Avalanche."""
    stream, training = prepared.stream, prepared.config.training
    source = stream.source
    test = np.concatenate([u.test_ids for u in stream.units])
    experiences = [e.sample_ids for e in stream.experiences[:tasks]]
    benchmark = in_memory_benchmark(source.inputs(), source.y, experiences, [np.sort(test)])
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, source.num_classes)
    )
    seconds: list[float] = []
    with quietly():
        strategy = make_strategy(name, network, training.batch_size, memory=200)
        for number, experience in enumerate(benchmark.train_stream, 1):
            started = time.process_time()
            strategy.train(experience)
            if number % EVERY == 0:
                strategy.eval(benchmark.test_stream)
            seconds.append(time.process_time() - started)
    return seconds


def flat(scale: float, rounds: int) -> list[Result]:
    """The last quarter of a long life against its first."""
    tasks = max(80, round(1000 * scale))
    quarter = tasks // 4
    results = []
    for name in LEARNERS:
        prepared = prepare_ours(name, tasks)
        early, late, small, large = [], [], [], []
        for _ in range(rounds):
            clock = live(prepared)
            early.append(statistics.mean(clock.seconds[:quarter]))
            late.append(statistics.mean(clock.seconds[-quarter:]))
            small.append(clock.bytes[quarter])
            large.append(clock.bytes[-1])
        label = f"{name}, last quarter of {tasks} tasks against first, per task"
        results.append(ratio(label, late, early, 1.1, at_most=True))
        if name == "online-ewc":
            results.append(ratio(f"{name}, state after {tasks} tasks", large, small, 1.0, at_most=True, unit="B"))
    return results


def against_avalanche(scale: float, rounds: int) -> list[Result]:
    """Time per task, evaluation every 10 tasks included, of the last 10 of the first tasks."""
    results = []
    for name, limit in AGAINST.items():
        tasks = max(20, round(limit * scale) // EVERY * EVERY)
        prepared = prepare_ours(name, tasks)
        costs = interleave(
            {
                "ours": lambda prepared=prepared: statistics.mean(live(prepared).seconds[-EVERY:]),
                "theirs": lambda prepared=prepared, name=name, tasks=tasks: statistics.mean(
                    live_avalanche(prepared, name, tasks)[-EVERY:]
                ),
            },
            rounds,
            warm_up=False,
        )
        label = f"{name}, tasks {tasks - EVERY + 1}-{tasks}, per task"
        results.append(ratio(label, costs["ours"], costs["theirs"], 10))
    return results


def refreshed(scale: float, rounds: int) -> list[Result]:
    """What refresh adds to the steps of its host; its Fisher pass after an experience is not a step."""
    prepared = prepare_ours("naive", max(40, round(200 * scale)))
    stream = prepared.stream
    results = []
    for host in ("naive", "replay"):

        def steps(on: bool, host: str = host) -> Callable[[], float]:
            def run() -> float:
                learner = SGDLearner(prepared.setting, lambda: plugins(prepared.setting, host, on))
                ledger, total = Ledger(stream.source), 0.0
                for experience in stream.experiences:
                    door = ledger.door(learner.access, experience.sample_ids)
                    admitted = ledger.admit(experience)
                    total += cpu_seconds_of_steps(learner, admitted, door)
                    door.close()
                return total

            return run

        costs = interleave({"host": steps(False), "refresh": steps(True)}, rounds)
        results.append(ratio(f"{host} + refresh, steps", costs["refresh"], costs["host"], 2.1, at_most=True))
    return results


class _Unmeasured(refresh.Refresh):  # type: ignore[misc]  # final for users; here its end is timed apart
    """Refresh without its Fisher pass."""

    def end(self, lesson: Any) -> Any:
        return naive.Naive(naive.Config(), self.setting).end(lesson)


def plugins(setting: Setting, host: str, on: bool) -> list[tuple[str, Plugin]]:
    found: list[tuple[str, Plugin]] = [("naive", naive.Naive(naive.Config(), setting))]
    if host == "replay":
        found = [("replay", replay.Replay(replay.Config(), setting))]
    if on:
        found.append(("refresh", _Unmeasured(refresh.Config(), setting)))
    return found


def cpu_seconds_of_steps(learner: SGDLearner, experience: Any, door: Any) -> float:
    started = time.process_time()
    learner.learn(experience, door)
    return time.process_time() - started


def fishers(scale: float, rounds: int) -> list[Result]:
    """Squared per-sample gradients against a loop over samples."""
    source = prepare_ours("naive", 1).stream.source.unpacked()
    count = max(64, round(512 * scale))
    data = Data(source.train_ids[:count], source.x, source.y, None)
    objective = Classification(source.num_classes)
    results = []
    for name, module, options, gate in (("MLP", mlp, mlp.Config(), 12), ("LeNet", lenet, lenet.Config(), 4)):
        with seeded_globals(Key(0)):
            model = FlatModel(module.build(options, tuple(source.x.shape[1:]), source.num_classes))

        def ours(model: FlatModel = model) -> float:
            return cpu_seconds(lambda: diagonal_fisher(model, objective, data, "empirical", Key(0)))

        def loop(model: FlatModel = model) -> float:
            def work() -> torch.Tensor:
                total = torch.zeros_like(model.parameters)
                for batch in data.batches(1):
                    model.gradient.zero_()
                    objective.losses(objective.outputs(model, batch), batch).mean().backward()
                    total += model.gradient.square()
                return total / len(data)

            return cpu_seconds(work)

        costs = interleave({"ours": ours, "loop": loop}, rounds)
        results.append(ratio(f"per-sample Fisher of {count} images, {name}", costs["ours"], costs["loop"], gate))
    return results


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work (the gates do not apply)")
    parts = {"flat": flat, "avalanche": against_avalanche, "refresh": refreshed, "fisher": fishers}
    parser.add_argument("--only", choices=tuple(parts), help="run one part")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scale = 0.1 if options.quick else 1.0
    results: list[Result] = []
    for name, part in parts.items():
        if options.only in (None, name):
            results += part(scale, options.rounds)
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
