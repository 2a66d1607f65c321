"""Exact unlearning: what requests cost beside the closed forms, switching off, the capacity simulator, and checkpoints.

python tests/benchmarks/exact.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report, value

from lifelong.capacity import theory
from lifelong.capacity.simulate import System, simulate
from lifelong.models import mlp, vit_tiny
from strategies.base import Setting, Strategy
from strategies.isolated import s3t, sisa
from strategies.objectives.classification import Classification
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, num_bytes
from strategies.step import step
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import digits


def make_source(samples: int) -> Source:
    """Random vectors of four classes; values change no cost."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 4
    return Source(
        name="noise",
        licence="none",
        x=torch.randn(samples, 8, generator=generator),
        y=y,
        class_ids=y.numpy(),
        user_ids=np.zeros(samples, dtype=np.int64),
        is_test=np.zeros(samples, dtype=bool),
        class_names=tuple("abcd"),
        user_names=("u",),
    )


def make_setting(source: Source, hidden: tuple[int, ...], training: Training) -> Setting:
    """Whatever the experience, one MLP on the whole label space."""

    def make_model() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(mlp.build(mlp.Config(hidden=hidden), tuple(source.x.shape[1:]), source.num_classes))

    return Setting(Key(0), make_model, Classification(source.num_classes), training, (), len(source))


def learned(strategy: Strategy, source: Source) -> Ledger:
    """Have a strategy learn everything in one experience."""
    ledger = Ledger(source)
    step(strategy, Experience("all", (), source.train_ids), ledger)
    return ledger


def request(number: int, sample: int) -> DeletionRequest:
    """For one sample."""
    ids = np.array([sample])
    return DeletionRequest(f"request-{number}", (Request("sample", (sample,), ids, ids[:0], 1),))


def visits(config: sisa.Config | s3t.Config, samples: int, requests: int) -> tuple[float, float]:
    """Return measured sample visits of requests for samples at random, and those of the closed form."""
    source = make_source(samples)
    setting = make_setting(source, (4,) * 4, Training(batch_size=4096))
    strategy: Strategy
    strategy = sisa.Sisa(config, setting) if isinstance(config, sisa.Config) else s3t.S3T(config, setting)
    ledger = learned(strategy, source)
    order = (Key(1) / "requests").order(source.train_ids)[:requests]
    found = expected = 0.0
    for number, sample in enumerate(source.train_ids[order].tolist()):
        live = len(ledger.live_ids) - 1
        found += step(strategy, request(number, sample), ledger).outcome.backward
        if isinstance(config, sisa.Config):
            expected += theory.request_cost(live, config.shards, config.slices)
        else:
            expected += theory.training_per_request(live, config.shards, config.slices, config.sequences)
    return found, expected


def costs(requests: int) -> list[Result]:
    """Requests in SISA, and in S3T over many lifetimes, beside the closed forms, as a deviation from them."""
    cases = [
        ("SISA, m=5 L=4", sisa.Config(shards=5, slices=4, epochs="training"), requests),
        ("S3T, m=1 L=2 B=2", s3t.Config(shards=1, slices=2, sequences=2, rank=1), 6 * requests),
        ("S3T, m=2 L=2 B=2", s3t.Config(shards=2, slices=2, sequences=2, rank=1), 6 * requests),
    ]
    results = []
    for name, config, count in cases:
        found, expected = visits(config, 8_000, count)
        print(f"{name}: {count} requests, {found:.4g} sample visits, closed form {expected:.4g}", file=sys.stderr)
        results.append(value(f"{name}: sample visits, off the closed form", [abs(found / expected - 1)], 0.05, ""))
    return results


def switching(rounds: int, sizes: tuple[int, int]) -> list[Result]:
    """Serving a request by switching off, in wall time, with little and with much data."""
    config = s3t.Config(shards=5, slices=4, sequences=4, rank=1, retrain_when="never")
    times: dict[int, list[float]] = {}
    for samples in sizes:
        source = make_source(samples)
        setting = make_setting(source, (4,) * 4, Training(batch_size=65_536))
        strategy = s3t.S3T(config, setting)
        learned(strategy, source)
        whole, times[samples] = strategy.state_dict(), []
        for number in range(rounds):
            strategy.load_state_dict(whole)
            ledger = Ledger(source)
            ledger.admit(Experience("all", (), source.train_ids))
            deletion = request(number, int(source.train_ids[97 * number % samples]))
            ledger.delete(deletion)
            door = ledger.door(strategy.access, source.train_ids[:0], deletion.sample_ids)
            started = time.perf_counter()
            strategy.forget(deletion, door)
            times[samples].append(time.perf_counter() - started)
    small, large = sizes
    return [
        value(f"S3T, switching off, {large:,} samples", times[large], 0.05, "s"),
        ratio(f"the same against {small:,} samples", times[large], times[small], 2.0, at_most=True),
    ]


def simulator(rounds: int) -> list[Result]:
    """A million requests, in CPU time."""
    sides = {
        "s3t": lambda: cpu_seconds(lambda: simulate(System(sequences=4))),
        "sisa": lambda: cpu_seconds(lambda: simulate(System(method="sisa", shards=1000, slices=20))),
    }
    found = interleave(sides, rounds, warm_up=False)
    return [
        value("capacity simulator, 10^6 requests, s3t m=5 L=4 B=4", found["s3t"], 10, "s"),
        value("the same, sisa m=1000 L=20", found["sisa"], 10, "s"),
    ]


def storage() -> list[Result]:
    """Bytes of all stages against whole checkpoints of every one."""
    source = digits.load(digits.Config())
    training = Training(epochs=10, batch_size=32, lr=0.05)
    setting = make_setting(source, (100, 100), training)
    sharded = sisa.Sisa(sisa.Config(shards=5, slices=4), setting)
    learned(sharded, source)
    whole = setting.make_model().num_bytes() * 20
    results = [
        ratio(
            "SISA, m=5 L=4: differences against checkpoints", [num_bytes(sharded.state_dict())], [whole], 1, True, "B"
        )
    ]

    def make_model() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(vit_tiny.build(vit_tiny.Config(patch=4), (1, 8, 8), 10))

    images = replace(source, x=source.x.view(-1, 1, 8, 8))
    vision = replace(setting, make_model=make_model, training=Training(batch_size=512))
    adapted = s3t.S3T(s3t.Config(shards=2, slices=2, sequences=2, rank=4), vision)
    learned(adapted, images)
    whole = make_model().num_bytes() * 2 * 4
    results.append(
        ratio(
            "S3T, m=2 L=2 B=2, vit-tiny: adapters and heads", [num_bytes(adapted.state_dict())], [whole], 1, True, "B"
        )
    )
    return results


def main() -> int:
    """Measure everything."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--only", choices=("costs", "switching", "simulator", "storage"), help="leave the rest out")
    parser.add_argument("--requests", type=int, default=600, help="scale of the comparison with closed forms")
    parser.add_argument("--sizes", type=int, nargs=2, default=(2_000, 500_000), help="samples to switch off among")
    options = parser.parse_args()
    parts: dict[str, Callable[[], list[Result]]] = {
        "costs": lambda: costs(options.requests),
        "switching": lambda: switching(options.rounds, tuple(options.sizes)),
        "simulator": lambda: simulator(3),
        "storage": storage,
    }
    results = [r for name, part in parts.items() if options.only in (None, name) for r in part()]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
