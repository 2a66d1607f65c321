"""Cohorts: what a step of stacked perceptrons and whole runs side by side cost, against training them one by one.

    python tests/benchmarks/cohorts.py
    python tests/benchmarks/cohorts.py --parts steps runs

CPU time on one thread, interleaved rounds. `steps`: a step by hand against PyTorch's own, in `fit`, with its set-up.
`passing`: a ResNet's step with `precision: bf16` and `channels_last`.
`runs`: 16 seeds of a digits study in one process against one seed. `studies`: a study, by seed, against another
checkout of the project (``--before DIR``), imports included.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _common import Result, Side, arguments, cpu_seconds, interleave, ratio, report
from torch import nn

from lifelong.models import mlp, resnet_18
from lifelong.study.cohorts import execute_together
from lifelong.study.config import StudyConfig, lay_out
from lifelong.study.jobs import Job as StudyJob
from lifelong.study.jobs import make_jobs
from strategies.objectives.classification import Classification
from strategies.parts.fit import Job, Training, fit
from strategies.parts.model import FlatModel, Network, Passing
from strategies.parts.stacked import fit_stacked, groups_of
from streams.config import parse
from streams.data import Data
from streams.randomness import Key, seeded_globals

SEEDS = 16
ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = {
    "scenario": {"name": "recurring", "tasks": 8, "classes_per_task": 4},
    "schedule": {"name": "periodic", "every": 4, "scope": "sample", "samples": 20},
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 3, "batch_size": 10, "lr": 0.01, "momentum": 0.9},
    "evaluation": {"probe": 200},
    "references": {"kinds": []},
}
FINETUNE = {"name": "finetune", "epochs": 3, "batch_size": 10}
PAIRS: dict[str, tuple[dict[str, Any], float]] = {
    "naive, finetune": ({"learner": "naive", "unlearner": FINETUNE}, 6.0),
    "ewc, finetune": ({"learner": "ewc", "unlearner": FINETUNE}, 8.0),
    "replay, finetune": ({"learner": {"name": "replay", "memory": 200}, "unlearner": FINETUNE}, 8.0),
}


class Unknown(nn.Linear):
    """A linear layer that is not passed by hand: with it, a step is PyTorch's."""


def make_job(width: int, hidden: int, outputs: int, batch: int, steps: int, seed: int, by_graph: bool) -> Job:
    """A model with random data for so many steps; values do not change the time."""
    generator = torch.Generator().manual_seed(seed)
    count = steps * batch
    x = torch.randn(count, width, generator=generator)
    data = Data(np.arange(count), x, torch.randint(outputs, (count,), generator=generator), None)
    with seeded_globals(Key(seed)):
        network = mlp.build(mlp.Config(hidden=(hidden,)), (width,), outputs)
    if by_graph:
        network.head.__class__ = Unknown
    training = Training(lr=0.01, momentum=0.9, batch_size=batch)
    return Job(FlatModel(Network(network.body, network.head)), Classification(outputs), data, training, Key(seed))


def train(jobs: list[Job]) -> Callable[[], object]:
    """Return what trains each by itself."""
    return lambda: [fit(j.model, j.objective, j.data, j.training, j.key) for j in jobs]


def measure_steps(rounds: int) -> list[Result]:
    """Compare a step by hand, of one model and of many, with one of PyTorch."""
    results = []
    for name, shape, batch, steps, count, gates in (
        ("digits 64-64-10, batch 10", (64, 64, 10), 10, 300, 16, (2.0, 10.0)),
        ("784-100-40, batch 16", (784, 100, 40), 16, 100, 4, (1.5, 2.0)),
    ):

        def jobs(models: int, by_graph: bool = False, shape: Any = shape, b: int = batch, n: int = steps) -> list[Job]:
            return [make_job(*shape, b, n, seed, by_graph) for seed in range(models)]

        def stacked(models: int) -> Callable[[], object]:
            made = jobs(models)
            return lambda: [fit_stacked([made[i] for i in group]) for group in groups_of(made)]

        sides: dict[str, Side] = {
            "graph": lambda jobs=jobs: cpu_seconds(train(jobs(2, by_graph=True))) / 2,  # type: ignore[misc]
            "one": lambda jobs=jobs: cpu_seconds(train(jobs(2))) / 2,  # type: ignore[misc]
            "many": lambda stacked=stacked, n=count: cpu_seconds(stacked(n)) / n,  # type: ignore[misc]
        }
        costs = interleave(sides, rounds)
        each = {side: [1e6 * seconds / steps for seconds in costs[side]] for side in costs}
        results.append(ratio(f"{name}: one", each["one"], each["graph"], gates[0], unit="us"))
        results.append(ratio(f"{name}: {count} at once", each["many"], each["graph"], gates[1], unit="us"))
    return results


def measure_passing(rounds: int) -> list[Result]:
    """Compare steps of a small ResNet in half precision, and with channels last, with plain ones."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(128, 1, 28, 28, generator=generator), torch.randint(10, (128,), generator=generator)
    data, training = Data(np.arange(128), x, y, None), Training(lr=0.01, momentum=0.9, batch_size=32)
    ways = {
        "plain": Passing(),
        "bf16": Passing("bf16"),
        "channels last": Passing(channels_last=True),
        "both": Passing("bf16", channels_last=True),
    }

    def run(how: Passing) -> float:
        with seeded_globals(Key(0)):
            network = resnet_18.build(resnet_18.Config(), (1, 28, 28), 10)
        network.passing = how
        model = FlatModel(network)
        return cpu_seconds(lambda: fit(model, Classification(10), data, training, Key(0)))

    costs = interleave({name: lambda how=how: run(how) for name, how in ways.items()}, rounds)  # type: ignore[misc]
    return [ratio(f"resnet-18, 28x28: {name}", costs[name], costs["plain"], 1.2) for name in list(ways)[1:]]


def make_study_jobs(strategy: dict[str, Any], seeds: int, root: Path) -> list[StudyJob]:
    study = {"name": "cohorts", "claim": "none", "seeds": seeds, "base": {**BASE, "strategies": {"one": strategy}}}
    return make_jobs(lay_out(parse(StudyConfig, study)), root)


def measure_runs(rounds: int) -> list[Result]:
    """Compare whole runs of 16 seeds side by side with one seed."""
    results = []
    for name, (strategy, gate) in PAIRS.items():

        def run(seeds: int, strategy: dict[str, Any] = strategy) -> float:
            folder = Path(tempfile.mkdtemp())
            try:
                jobs = make_study_jobs(strategy, seeds, folder)
                found: list[Any] = []
                seconds = cpu_seconds(lambda: found.extend(execute_together(jobs)))
                assert not any(r.error for r in found), found
                return seconds
            finally:
                shutil.rmtree(folder)

        costs = interleave({"many": lambda: run(SEEDS), "one": lambda: run(1)}, rounds)
        results.append(ratio(f"{SEEDS} runs: {name}", costs["many"], costs["one"], gate, at_most=True))
    return results


def _declared(name: str) -> dict[str, Any]:
    """Return what a study of ours runs at its small size, without what it asks of the results."""
    declared = yaml.safe_load((ROOT / "studies" / f"{name}.yaml").read_text())
    return {key: declared[key] for key in ("name", "base", "strategies", "grid") if key in declared} | {"claim": "none"}


STUDIES: dict[str, tuple[dict[str, Any], float]] = {
    "digits with references": ({"base": "quickstart", "name": "digits", "claim": "none"}, 3.0),
    "sustained": (_declared("sustained"), 2.0),
    "scole": (_declared("scole"), 2.0),
}


def measure_studies(before: Path | None, count: int) -> list[Result]:
    """Compare the CPU time per seed of studies with that of another checkout of the project, one round."""
    if before is None:
        return []
    results = []
    for name, (study, gate) in STUDIES.items():
        costs = {}
        for side, root, seeds in (("ours", ROOT, count), ("before", before, 2)):
            costs[side] = [_cpu_of_study(root, {**study, "seeds": seeds}) / seeds]
        results.append(ratio(f"{name}, per seed", costs["ours"], costs["before"], gate))
    return results


_RUN = """
import json, resource, sys
from lifelong.study.study import Study
study = Study(json.loads(sys.argv[1]), root=sys.argv[2])
try:
    from lifelong.study.cohorts import cohorts, execute_together
    results = [r for cohort in cohorts(study.jobs, 1) for r in execute_together(cohort)]
except ImportError:  # the code before there were any
    from lifelong.study.jobs import execute
    results = [execute(job) for job in study.jobs]
assert not [r.error for r in results if r.error], results
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def _cpu_of_study(root: Path, study: dict[str, Any]) -> float:
    """Run a study in one process of a checkout, one torch thread; return its CPU seconds."""
    folder = tempfile.mkdtemp()
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "LIFELONG_CACHE": f"{folder}/cache"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, json.dumps(study), f"{folder}/runs"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return float(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument(
        "--parts", nargs="+", choices=["steps", "runs", "passing", "studies"], default=["steps", "runs"]
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the part `studies`")
    parser.add_argument("--before", type=Path, metavar="DIR", help="another checkout, for the part `studies`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    if "steps" in options.parts:
        results += measure_steps(options.rounds)
    if "runs" in options.parts:
        results += measure_runs(max(2, options.rounds // 3))
    if "passing" in options.parts:
        results += measure_passing(max(2, options.rounds // 3))
    if "studies" in options.parts:
        results += measure_studies(options.before, options.seeds)
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
