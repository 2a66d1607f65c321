"""What the retrained references of ten requests cost, against ten retrainings from scratch that they must equal.

    python tests/benchmarks/references_cost.py

Glyphs in 50 task-incremental experiences, replay, a request after every fifth. References share what their lives have
in common, which is everything before the first experience that a request touches; so the price depends on where the
forgotten data lies. Three kinds of requests: tasks that were learned five experiences ago, tasks drawn at random, and
20 samples drawn at random from everything (which touch the beginning, and leave nothing to share). Outputs on every
evaluated sample are compared bit for bit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report

from lifelong.config.run import RunConfig
from lifelong.evaluation.outputs import Outputs
from lifelong.references.points import Point, chain, points_of
from lifelong.references.tree import References
from lifelong.setup.build import make_strategy
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.step import step
from streams.config import parse
from streams.events import DeletionRequest
from streams.ledger import Ledger

EXPERIENCES, EVERY = 50, 5
SCHEDULES: dict[str, dict[str, Any]] = {
    "tasks of five experiences ago": {
        "name": "explicit",
        "requests": [{"after": a, "scope": "task", "keys": [a - 5]} for a in range(EVERY, EXPERIENCES + 1, EVERY)],
    },
    "tasks at random": {"name": "periodic", "scope": "task", "start": EVERY, "every": EVERY},
    "20 samples at random": {"name": "periodic", "scope": "sample", "samples": 20, "start": EVERY, "every": EVERY},
}


class Comparison:
    """One stream, and both ways to its references."""

    def __init__(self, schedule: dict[str, Any]) -> None:
        config = {
            "source": {"name": "glyphs", "pool": 673},
            "scenario": {"name": "task-incremental", "experiences": EXPERIENCES},
            "schedule": schedule,
            "training": {"epochs": 2, "batch_size": 32, "lr": 0.05},
            "strategies": {"replay": {"learner": "replay", "unlearner": "none"}},
        }
        self.prepared: Prepared = prepare(parse(RunConfig, config))
        p = self.prepared
        self.evaluator = make_instruments(p.config.evaluation, p.stream, p.plan, p.setting, "cpu").evaluator
        requests = [a.event for a in p.plan.requests]
        self.points = [x for x in points_of(p.stream, ("retrained",)) if x.event in requests]
        self.steps: dict[str, list[float]] = {"shared": [], "scratch": []}
        self.outputs: dict[str, dict[Point, Outputs]] = {}

    def build(self) -> Any:
        return make_strategy(self.prepared.config.strategies["replay"], self.prepared.setting, "replay")

    def ledger(self) -> Ledger:
        return Ledger(self.prepared.stream.source, self.prepared.stream.task_of)

    def shared(self) -> float:
        """Compute all references with an empty cache; return the CPU seconds."""
        with tempfile.TemporaryDirectory() as cache:
            references = References(self.build, self.ledger, self.evaluator, "benchmark", b"secret", Path(cache))
            wanted = {p: chain(self.prepared.stream, p) for p in self.points}

            def work() -> None:
                self.outputs["shared"] = dict(references.compute(wanted))

            seconds = cpu_seconds(work)
        self.steps["shared"].append(references.cost.outcome.steps)
        return seconds

    def scratch(self) -> float:
        """Retrain for every request from the start; return the CPU seconds."""
        steps = 0
        outputs = {}

        def work() -> None:
            nonlocal steps
            for point in self.points:
                strategy, ledger = self.build(), self.ledger()
                for event in chain(self.prepared.stream, point):
                    steps += step(strategy, event, ledger).outcome.steps
                outputs[point] = self.evaluator.evaluate(strategy, point.event)

        seconds = cpu_seconds(work)
        self.outputs["scratch"] = outputs
        self.steps["scratch"].append(steps)
        return seconds

    def check(self) -> None:
        """Stop if the references are not, bit for bit, what retraining gives."""
        assert sum(isinstance(e, DeletionRequest) for e in self.prepared.stream.events) == 10
        for point in self.points:
            a, b = self.outputs["shared"][point], self.outputs["scratch"][point]
            if a.losses.tobytes() != b.losses.tobytes() or a.scores.tobytes() != b.scores.tobytes():
                raise SystemExit(f"The reference at event {point.event} differs from retraining from scratch.")


def main() -> int:
    options = arguments(__doc__, rounds=3).parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    for name, schedule in SCHEDULES.items():
        comparison = Comparison(schedule)
        costs = interleave({"shared": comparison.shared, "scratch": comparison.scratch}, options.rounds, warm_up=False)
        comparison.check()
        steps = comparison.steps
        results.append(ratio(f"{name}: optimizer steps", steps["shared"], steps["scratch"], 0.5, True, ""))
        results.append(ratio(f"{name}: CPU time", costs["shared"], costs["scratch"], 0.5, True))
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
