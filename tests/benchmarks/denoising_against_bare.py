"""A training step of the MLP denoiser against a bare PyTorch loop on in-memory tensors: the same weights, CPU time.

python tests/benchmarks/denoising_against_bare.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report

from lifelong.models import mlp_denoiser
from strategies.objectives.denoising import Config, Denoising
from strategies.parts.diffusion.schedules import STEPS
from strategies.parts.fit import Training, fit
from strategies.parts.model import FlatModel, Network
from streams.data import Batch
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.sources import digits

GATE = 1.05
KEY = Key(0) / "benchmark"
Draw = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""From rows to steps, noise and whether the prompt is told."""


def drawn_by_position(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a user would write by hand."""
    return torch.randint(0, STEPS, (len(rows),)), torch.randn(len(rows), 64), torch.rand(len(rows)) >= 0.1


def train_bare(
    network: Network, samples: Batch, training: Training, order: torch.Tensor, draw: Draw, shares: torch.Tensor
) -> None:
    """The loop that a user would write by hand."""
    optimizer = torch.optim.Adam(network.parameters(), lr=training.lr)
    signal, sigma = shares.sqrt().float(), (1 - shares).sqrt().float()
    clean, words = 2 * samples.x - 1, samples.y + 1
    network.train()
    for rows in order.split(training.batch_size):
        time, noise, told = draw(rows)
        x = clean.index_select(0, rows)
        noisy = signal[time].unsqueeze(1) * x + sigma[time].unsqueeze(1) * noise
        optimizer.zero_grad()
        predicted = network(noisy.view(-1, 1, 8, 8), time, (words.index_select(0, rows) * told).unsqueeze(1))
        (predicted - x).square().mean().backward()
        optimizer.step()


def measure(name: str, config: mlp_denoiser.Config, rounds: int) -> Result:
    """Compare both loops on one model."""
    source = digits.load(digits.Config())
    objective = Denoising.for_data(Config(), source, None, "cpu")
    data = Ledger(source).lend(source.train_ids)
    samples, training = data.all(), Training(optimizer="adam", lr=1e-3, batch_size=64)
    order, shares = data.positions(KEY / "epoch" / 0), objective.shares

    def make_network() -> Network:
        with seeded_globals(Key(0)):
            return mlp_denoiser.build(config, *objective.sizes((64,)))

    step = iter(range(math.ceil(len(data) / training.batch_size)))

    def drawn_by_name(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        extra = objective.drawn(data.batch(rows), KEY / "drawn" / next(step)).extra
        return extra["time"], extra["noise"], extra["told"]

    flat, plain = FlatModel(make_network()), make_network()
    fit(flat, objective, data, training, KEY)
    train_bare(plain, samples, training, order, drawn_by_name, shares)
    theirs = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    if not torch.allclose(flat.parameters, theirs, atol=1e-4):
        raise SystemExit(f"{name}: the two loops end with different weights; the comparison means nothing.")
    costs = interleave(
        {
            "ours": lambda: cpu_seconds(lambda: fit(FlatModel(make_network()), objective, data, training, KEY)),
            "bare": lambda: cpu_seconds(
                lambda: train_bare(make_network(), samples, training, order, drawn_by_position, shares)
            ),
        },
        rounds,
    )
    return ratio(name, costs["ours"], costs["bare"], GATE, at_most=True)


def main() -> int:
    options = arguments(__doc__, rounds=15).parse_args()
    torch.set_num_threads(1)
    results = [
        measure("denoiser 256 x 4, batch 64", mlp_denoiser.Config(), options.rounds),
        measure("denoiser 128 x 3, batch 64", mlp_denoiser.Config(width=128, blocks=3), options.rounds),
    ]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
