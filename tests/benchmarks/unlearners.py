"""What serving a request costs, as a share of retraining from scratch at the same request: at most a quarter.

    python tests/benchmarks/unlearners.py

100 glyph classes and an MLP trained for 60 epochs, then a request for 10 % of the samples or for 5 classes. `ssd` has
its defaults; `finetune` and `salun` take 5 epochs, as in `studies/salun.yaml`. Batches are as large as in training.
``--all`` lists the others too; their gate of ten retrainings is there for the eye alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_strategy
from lifelong.setup.preparation import Prepared, prepare
from strategies.step import ledger_after, step
from streams.config import parse
from streams.ledger import Ledger

GATE, LOOSE = 0.25, 10.0
TRAINED: dict[str, Any] = {"epochs": 5, "batch_size": 32, "lr": 0.03}
GATED: dict[str, dict[str, Any]] = {"ssd": {}, "salun": TRAINED, "finetune": TRAINED}
OTHERS: dict[str, dict[str, Any]] = {
    "l1-sparse": TRAINED,
    "random-label": TRAINED,
    "neggrad-plus": TRAINED,
    "npo": TRAINED,
    "scrub": {**TRAINED, "max_epochs": 3},
    "cf-k": {**TRAINED, "k": 1},
    "eu-k": {**TRAINED, "k": 1},
    "bad-teacher": {"epochs": 5, "batch_size": 32},
    "boundary-shrink": {"batch_size": 32},
    "boundary-expand": {"batch_size": 32},
    "gradient-ascent": {"batch_size": 32},
    "lfssd": {},
    "influence": {},
    "fisher-forgetting": {},
    "laf": {"max_ratio": None},
}
REQUESTS = {"10 % of the samples": {"scope": "sample", "count": 120}, "5 classes": {"scope": "class", "count": 5}}


def prepared(request: dict[str, Any], unlearners: dict[str, dict[str, Any]]) -> Prepared:
    """Return the stream, and a strategy for every unlearner."""
    config = {
        "source": {"name": "glyphs", "classes": 100},
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, **request}]},
        "model": {"name": "mlp", "hidden": [128]},
        "training": {"epochs": 60, "batch_size": 32, "lr": 0.1},
        "strategies": {n: {"learner": "naive", "unlearner": {"name": n, **o}} for n, o in unlearners.items()},
    }
    return prepare(parse(RunConfig, config))


def sides(p: Prepared) -> dict[str, Callable[[], float]]:
    """Return what serving the request costs every strategy, from the same trained model."""
    learn, request = p.stream.events
    strategies = {n: make_strategy(c, p.setting, n) for n, c in p.config.strategies.items()}
    first = next(iter(strategies.values()))
    step(first, learn, Ledger(p.stream.source, p.stream.task_of))
    state = first.state_dict()

    def serve(name: str) -> float:
        strategy = strategies[name]
        strategy.load_state_dict(state)
        ledger = ledger_after(Ledger(p.stream.source, p.stream.task_of), (learn,))
        return cpu_seconds(lambda: step(strategy, request, ledger))

    return {name: (lambda n=name: serve(n)) for name in strategies}  # type: ignore[misc]


def main() -> int:
    """Measure, report, and say whether all gates are met."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--all", action="store_true", help="list the other unlearners too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    for what, request in REQUESTS.items():
        unlearners = {"retrain": {}, **GATED, **(OTHERS if options.all else {})}
        costs = interleave(sides(prepared(request, unlearners)), options.rounds)
        for name in unlearners:
            if name != "retrain":
                gate = GATE if name in GATED else LOOSE
                title = f"{name} / retrain, {what}"
                results.append(ratio(title, costs[name], costs["retrain"], gate, at_most=True))
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
