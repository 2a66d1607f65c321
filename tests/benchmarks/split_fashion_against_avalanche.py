"""Split-Fashion-MNIST (5 x 2 classes): train, and evaluate all five test experiences after each, against Avalanche.

    python tests/benchmarks/split_fashion_against_avalanche.py
    python tests/benchmarks/split_fashion_against_avalanche.py --samples 600 --rounds 1

MLP 784-256-256-10, batch 64, one epoch. Avalanche runs twice: on in-memory TensorDatasets with accuracy metrics only
(its best case), and as its users write it (SplitFMNIST with PIL transforms, default evaluator). EWC estimates the
Fisher the same way on both sides. A bare PyTorch loop, with nothing but training and accuracies, shows how much there
is to win: most of the time is matrix products. Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _avalanche import in_memory_benchmark, make_strategy, quietly
from _common import Result, Side, arguments, cpu_seconds, interleave, ratio, report
from torch import nn

from lifelong.config.run import EvaluationConfig, RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.metrics.measure import Measure
from lifelong.setup.build import make_setting, make_source, make_stream
from lifelong.setup.build import make_strategy as make_ours
from lifelong.setup.instruments import make_instruments
from strategies.step import step
from streams.config import parse
from streams.ledger import Ledger
from streams.sources.fashion_mnist import DEBIAN
from streams.stream import Stream

BEST_CASE, AS_WRITTEN = 2.2, 8.0
MEMORY = 200
LEARNERS: dict[str, Any] = {
    "naive": "naive",
    "ewc": {"name": "ewc", "strength": 10.0, "fisher": "batch", "fisher_batch": 64},
    "replay": {"name": "replay", "memory": MEMORY},
}


class Ours:
    """The stream of the benchmark, ready to be lived through."""

    def __init__(self, samples: int | None) -> None:
        limits = {} if samples is None else {"train_limit": samples, "test_limit": max(1, samples // 6)}
        self.config = parse(
            RunConfig,
            {
                "source": {"name": "fashion-mnist", **limits},
                "scenario": {"name": "class-incremental", "experiences": 5},
                "model": {"name": "mlp", "hidden": [256, 256]},
                "training": {"epochs": 1, "batch_size": 64, "lr": 0.01, "momentum": 0.9},
                "strategies": {name: {"learner": learner, "unlearner": "none"} for name, learner in LEARNERS.items()},
            },
        )
        self.stream = make_stream(self.config, make_source(self.config))
        self.setting = make_setting(self.config, self.stream)
        self.plan = plan_evaluation(self.stream, EvaluationConfig(probe=0))
        self.evaluator = make_instruments(self.config.evaluation, self.stream, self.plan, self.setting, "cpu").evaluator

    def live(self, name: str) -> float:
        """Learn and evaluate everything; return the CPU seconds."""
        strategy = make_ours(self.config.strategies[name], self.setting, name)
        ledger = Ledger(self.stream.source)
        measure = Measure(self.stream, self.plan, "accuracy")

        def work() -> None:
            for index, event in enumerate(self.stream.events):
                step(strategy, event, ledger)
                measure.update(index, self.evaluator.evaluate(strategy))

        return cpu_seconds(work)


def make_network() -> nn.Module:
    """The same network for Avalanche."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def live_avalanche(name: str, benchmark: Any, evaluator: Any = None) -> float:
    """Train and evaluate everything; return the CPU seconds."""

    def work() -> None:
        for experience in benchmark.train_stream:
            strategy.train(experience)
            strategy.eval(benchmark.test_stream)

    with quietly():
        strategy = make_strategy(name, make_network(), 64, MEMORY, evaluator)
        return cpu_seconds(work)


def live_bare(stream: Stream) -> float:
    """Naive training and evaluation by hand; return the CPU seconds."""
    x, y, network = stream.source.inputs(), stream.source.y, make_network()
    test = torch.from_numpy(stream.source.test_ids)

    def work() -> None:
        for experience in stream.experiences:
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
            network.train()
            ids = torch.from_numpy(experience.sample_ids)
            for rows in ids[torch.randperm(len(ids))].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
            network.eval()
            with torch.inference_mode():
                torch.cat([network(x[rows]).argmax(1) == y[rows] for rows in test.split(256)])

    return cpu_seconds(work)


def split_fmnist(folder: Path) -> Any:
    """Avalanche's own SplitFMNIST, from the unpacked files of Debian's package."""
    from avalanche.benchmarks.classic import SplitFMNIST

    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN.glob("*.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    return SplitFMNIST(5, dataset_root=folder, fixed_class_order=list(range(10)))


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument(
        "--samples", type=int, help="training samples per class, instead of all; leaves SplitFMNIST out"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = Ours(options.samples)
    stream = ours.stream
    best_case = in_memory_benchmark(
        stream.source.inputs(),
        stream.source.y,
        [e.sample_ids for e in stream.experiences],
        [u.test_ids for u in stream.units],
    )
    results: list[Result] = []
    for name in LEARNERS:
        sides: dict[str, Side] = {
            "ours": lambda n=name: ours.live(n),
            "avalanche": lambda n=name: live_avalanche(n, best_case),
        }
        if name == "naive":
            sides["bare"] = lambda: live_bare(stream)
        costs = interleave(sides, options.rounds)
        results.append(ratio(f"{name}, in-memory tensors", costs["ours"], costs["avalanche"], BEST_CASE))
        if name == "naive":
            limit = ratio("", costs["bare"], costs["avalanche"], BEST_CASE)
            print(
                f"A bare PyTorch loop: {limit.ratio:.3g} ({limit.low:.3g} - {limit.high:.3g}) times Avalanche's naive."
            )
    if options.samples is None:
        from avalanche.training.plugins.evaluation import default_evaluator

        with tempfile.TemporaryDirectory() as folder:
            as_written = split_fmnist(Path(folder))
            costs = interleave(
                {
                    "ours": lambda: ours.live("naive"),
                    "avalanche": lambda: live_avalanche("naive", as_written, default_evaluator()),
                },
                max(1, options.rounds // 2),
            )
        results.append(ratio("naive, SplitFMNIST + default evaluator", costs["ours"], costs["avalanche"], AS_WRITTEN))
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
