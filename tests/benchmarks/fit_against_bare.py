"""`fit` against a bare PyTorch loop on in-memory tensors: the same batches, the same weights, CPU time.

python tests/benchmarks/fit_against_bare.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report
from torch import nn
from torch.nn import functional as F

from lifelong.models import lenet, mlp
from strategies.objectives.classification import Classification
from strategies.parts.fit import Training, fit
from strategies.parts.model import FlatModel, Network
from streams.data import Data
from streams.randomness import Key, seeded_globals

GATE = 1.05
KEY = Key(0) / "benchmark"


def make_data(samples: int, shape: tuple[int, ...]) -> Data:
    """Random inputs and labels of ten classes; values do not change the time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(samples, *shape, generator=generator)
    y = torch.randint(10, (samples,), generator=generator)
    return Data(np.arange(samples), x, y, None)


def train_bare(network: nn.Module, x: torch.Tensor, y: torch.Tensor, training: Training, order: torch.Tensor) -> None:
    """The loop that a user would write by hand."""
    optimizer = torch.optim.SGD(network.parameters(), lr=training.lr, momentum=training.momentum)
    network.train()
    for rows in order.split(training.batch_size):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x.index_select(0, rows)), y.index_select(0, rows))
        loss.backward()
        optimizer.step()


def measure(name: str, samples: int, shape: tuple[int, ...], batch: int, rounds: int) -> Result:
    """Compare both loops on one model."""
    data = make_data(samples, shape)
    everything = data.all()
    training = Training(lr=0.01, momentum=0.9, batch_size=batch)
    objective = Classification(10)
    order = data.positions(KEY / "epoch" / 0)

    def make_network() -> Network:
        with seeded_globals(Key(0)):
            if name.startswith("lenet"):
                return lenet.build(lenet.Config(), shape, 10)
            return mlp.build(mlp.Config(hidden=(64,) if name.startswith("digits") else (256, 256)), shape, 10)

    def ours(model: FlatModel) -> Callable[[], object]:
        return lambda: fit(model, objective, data, training, KEY)

    def bare(network: Network) -> Callable[[], object]:
        return lambda: train_bare(network, everything.x, everything.y, training, order)

    flat, plain = FlatModel(make_network()), make_network()
    ours(flat)()
    bare(plain)()
    theirs = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    if not torch.allclose(flat.parameters, theirs, atol=1e-5):
        raise SystemExit(f"{name}: the two loops end with different weights; the comparison means nothing.")
    costs = interleave(
        {
            "ours": lambda: cpu_seconds(ours(FlatModel(make_network()))),
            "bare": lambda: cpu_seconds(bare(make_network())),
        },
        rounds,
    )
    return ratio(name, costs["ours"], costs["bare"], GATE, at_most=True)


def main() -> int:
    options = arguments(__doc__, rounds=15).parse_args()
    torch.set_num_threads(1)
    results = [
        measure("mlp 784-256-256-10, batch 64", 12_000, (784,), 64, options.rounds),
        measure("digits mlp 64-64-10, batch 10", 3_000, (64,), 10, options.rounds),
        measure("lenet 28x28, batch 64", 3_000, (1, 28, 28), 64, options.rounds),
    ]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
