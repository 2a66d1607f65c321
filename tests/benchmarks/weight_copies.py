"""How many copies of the weights a run holds at its peak, for strategies of different needs.

The model is a perceptron with 25 million weights (100 MB), so that nothing else weighs much: each strategy learns two
experiences of digits and serves one request, in a process of its own. Counted is what the process holds above what it
held before the model was built (Linux's high-water mark of resident memory), in sizes of the weights: one copy is the
weights themselves, one their initial values.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile

from _common import arguments, begin_anew, report, resident, value

from lifelong.config.run import RunConfig
from lifelong.execution.runner import run_prepared
from lifelong.setup.preparation import Prepared, prepare
from streams.config import parse

STRATEGIES: dict[str, tuple[dict[str, object], float]] = {
    "naive": ({"learner": "naive", "unlearner": "none"}, 4.0),
    "retrain": ({"learner": "replay", "unlearner": "retrain"}, 5.0),
    "scrub": ({"learner": "naive", "unlearner": "scrub"}, 10.0),
    "salun": ({"learner": "naive", "unlearner": "salun"}, 11.5),
    "ewc": ({"learner": "ewc", "unlearner": "none"}, 11.0),
    "sisa": ({"isolated": {"name": "sisa", "shards": 2, "slices": 2}}, 13.0),
}
"""What is measured, and how many copies it may hold at the most."""

WIDTH, DEPTH = 2500, 5
"""Sizes of the perceptron: no layer has more than a quarter of the weights."""


def main() -> int:
    """Measure every strategy, each in processes of its own."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--only", choices=STRATEGIES, nargs="*", default=list(STRATEGIES), help="strategies")
    parser.add_argument("--inside", choices=STRATEGIES, help="measure that strategy in this process and print copies")
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(copies(args.inside)))
        return 0
    results = []
    for name in args.only:
        rounds = [_measured(name) for _ in range(args.rounds)]
        built, lived = ([r[phase] for r in rounds] for phase in ("prepare", "run"))
        results.append(value(f"{name}: strategies are built", built, STRATEGIES[name][1], "x"))
        results.append(value(f"{name}: the stream is lived", lived, STRATEGIES[name][1], "x"))
    return report(results, args.json)


def _measured(name: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--inside", name]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, float] = json.loads(printed.splitlines()[-1])
    return measured


def copies(name: str) -> dict[str, float]:
    """Return the peaks while a run is prepared and while it is lived, in sizes of the weights."""
    _live(_prepared(name, width=8))  # imports, thread pools and the data are there before anything counts
    gc.collect()
    before = resident("VmRSS")
    begin_anew()
    prepared = _prepared(name, WIDTH)
    weights = prepared.setting.make_model().num_bytes()
    gc.collect()
    built = resident("VmHWM")
    begin_anew()
    _live(prepared)
    return {"prepare": (built - before) / weights, "run": (resident("VmHWM") - before) / weights}


def _prepared(name: str, width: int) -> Prepared:
    config = {
        "source": {"name": "digits", "test_fraction": 0.1},
        "scenario": {"name": "recurring", "tasks": 2, "samples_per_class": 64},
        "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "sample", "count": 16}]},
        "model": {"name": "mlp", "hidden": [width] * DEPTH},
        "strategies": {name: STRATEGIES[name][0]},
        "references": {"kinds": []},
    }
    return prepare(parse(RunConfig, config))


def _live(prepared: Prepared) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_prepared(prepared, folder)


if __name__ == "__main__":
    sys.exit(main())
