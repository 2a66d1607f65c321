"""What looking at requests costs: all past requests at every event, and 64 shadow models.

    python tests/benchmarks/audits.py

- curves: 70 recurring tasks on digits and 30 requests, replay and fine-tuning; learning, forgetting and evaluating,
  with every past request measured again after every event, against the same life in which only units and retained data
  are measured. Attacks beside references are left out, as they come once.
- shadows: 64 lives of digits (20 epochs, one request of 100 samples, nothing unlearned) and of 5,000 images of
  Fashion-MNIST (3 epochs), with as many retrained lives beside them and the attacks; wall time of one process with an
  empty cache, one life after the other. A study's workers take as many lives at once as there are cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report, value

from lifelong.config.run import RunConfig
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.evaluation.planning import plan_evaluation
from lifelong.metrics.measure import Measure
from lifelong.references.shadows import shadow_rows
from lifelong.setup.build import make_strategy
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.step import step
from streams.config import parse
from streams.ledger import Ledger

CURVES: dict[str, Any] = {
    "scenario": {"name": "recurring", "tasks": 70, "classes_per_task": 4, "samples_per_class": 60},
    "schedule": {"name": "periodic", "start": 11, "every": 2, "samples": 10, "limit": 30},
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 3, "batch_size": 16, "lr": 0.05},
    "strategies": {
        "ours": {
            "learner": {"name": "replay", "memory": 200},
            "unlearner": {"name": "finetune", "epochs": 2, "retained": "memory"},
        }
    },
    "references": {"kinds": []},
}
SHADOWS: dict[str, Any] = {
    "scenario": "joint",
    "schedule": {"name": "burst", "after": 1, "requests": 1, "samples": 100},
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 20, "batch_size": 32, "lr": 0.1},
    "strategies": {"ours": {"unlearner": "none"}},
    "references": {"kinds": ["retrained"], "shadows": 64},
}
FASHION: dict[str, Any] = {
    "source": {"name": "fashion-mnist", "train_limit": 500, "test_limit": 100},
    "training": {"epochs": 3, "batch_size": 32, "lr": 0.05},
}


def without_requests(p: Prepared) -> EvaluationPlan:
    """Return what is measured where only units and retained data are."""
    # A plan that follows few requests knows what to look at without them.
    config = p.config.evaluation.model_copy(update={"follow": "geometric"})
    return replace(plan_evaluation(p.stream, config), requests=(), numbers=None)


def live(p: Prepared, plan: EvaluationPlan) -> float:
    """Live the whole stream once and measure it; return the CPU seconds."""
    evaluator = make_instruments(p.config.evaluation, p.stream, plan, p.setting, "cpu").evaluator
    measure = Measure(p.stream, plan, p.setting.objective.measure)
    strategy = make_strategy(p.config.strategies["ours"], p.setting, "ours")
    ledger = Ledger(p.stream.source, p.stream.task_of)
    measure.start(evaluator.evaluate(strategy))

    def work() -> None:
        for index, event in enumerate(p.stream.events):
            step(strategy, event, ledger)
            measure.update(index, evaluator.evaluate(strategy, index if plan.requests else None))

    return cpu_seconds(work)


def curves(rounds: int) -> list[Result]:
    """Measure the share that past requests add."""
    p = prepare(parse(RunConfig, CURVES))
    assert (len(p.stream.experiences), len(p.stream.requests)) == (70, 30)
    bare = without_requests(p)
    costs = interleave({"all": lambda: live(p, p.plan), "units": lambda: live(p, bare)}, rounds)
    return [ratio("curves of 30 requests over 100 events", costs["all"], costs["units"], 1.3, True)]


def shadows(name: str, changes: dict[str, Any]) -> Result:
    """Live 64 shadows and as many retrained ones, and attack."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LIFELONG_CACHE"] = cache
        p = prepare(parse(RunConfig, SHADOWS | changes))
        evaluator = make_instruments(p.config.evaluation, p.stream, p.plan, p.setting, "cpu").evaluator
        started = time.perf_counter()
        rows, cost = shadow_rows(p, "ours", evaluator)
        seconds = time.perf_counter() - started
    assert cost.cached == 0
    assert {r.metric for r in rows} >= {"lira_auc", "ulira_auc", "forgetting_score"}
    return value(f"64 shadows of {name}, wall", [seconds], 180.0, "s")


def main() -> int:
    options = arguments(__doc__, rounds=3).parse_args()
    torch.set_num_threads(1)
    results = curves(options.rounds)
    results += [shadows("digits", {}), shadows("5,000 Fashion-MNIST images", FASHION)]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
