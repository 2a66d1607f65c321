"""Supermasks: a mask-training step, switching tasks, memory, and inferring the task, for 100 tasks on one network.

python tests/benchmarks/supermasks.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report, value

from lifelong.models import lenet, mlp
from strategies.base import Setting
from strategies.isolated import exssnet, supsup
from strategies.objectives.classification import Classification
from strategies.parts.fit import FitConfig, Training, fit
from strategies.parts.model import FlatModel, num_bytes
from strategies.parts.supermasks import (
    ScoreStep,
    entropy,
    entropy_slopes,
    initial_scores,
    layers_of,
    maskable,
    one_shot,
    positions_of,
    signed_constants,
    spans_of,
)
from streams.data import Data
from streams.events import Experience, Unit
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source

KEY = Key(0) / "benchmark"
TASKS = 100
SHAPE = (1, 28, 28)
ADAM = FitConfig(optimizer="adam", lr=1e-3, batch_size=64)


def make_model(name: str) -> FlatModel:
    """An MLP 784-300-100-10 or LeNet."""
    with seeded_globals(Key(0)):
        if name == "lenet":
            return FlatModel(lenet.build(lenet.Config(), SHAPE, 10))
        return FlatModel(mlp.build(mlp.Config(hidden=(300, 100)), SHAPE, 10))


def make_source(samples: int) -> Source:
    """Random images of ten classes; values do not change the time."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 10
    return Source(
        name="noise",
        licence="none",
        x=torch.rand(samples, *SHAPE, generator=generator),
        y=y,
        class_ids=y.numpy(),
        user_ids=np.zeros(samples, dtype=np.int64),
        is_test=np.arange(samples) >= samples // 2,
        class_names=tuple(str(c) for c in range(10)),
        user_names=("u",),
    )


def step_cost(name: str, rounds: int) -> Result:
    """A mask-training step over a plain step of the same network with Adam."""
    source = make_source(6_400)
    data = Data(source.train_ids, source.x, source.y, None)
    objective, steps = Classification(10), len(source.train_ids) // 64
    plain, masked = make_model(name), maskable(make_model(name), None, KEY)
    layers = layers_of(masked)
    weights, spans = signed_constants(masked.parameters, layers), spans_of(layers, 0.1, "head", 10)

    def train_plain() -> float:
        return cpu_seconds(lambda: fit(plain, objective, data, ADAM, KEY))

    def train_mask() -> float:
        scores = initial_scores(layers, KEY, weights.device)
        step = ScoreStep(ADAM, weights, scores, spans, masked.parameters, 1, steps, "constant")
        return cpu_seconds(lambda: fit(masked, objective, data, ADAM, KEY, optimizer=step))

    costs = interleave({"ours": train_mask, "plain": train_plain}, rounds)
    per_step = {side: [c / steps * 1e3 for c in each] for side, each in costs.items()}
    return ratio(
        f"mask step / plain step, {name}, batch 64", per_step["ours"], per_step["plain"], 1.5, at_most=True, unit="ms"
    )


def live(module: Any, source: Source) -> Any:
    """A strategy that has learned all tasks, on random data."""
    units = tuple(Unit(f"task-{t}", tuple(range(10)), source.test_ids) for t in range(TASKS))
    training = Training(epochs=1, batch_size=64)
    setting = Setting(Key(0), lambda: make_model("mlp"), Classification(10), training, units, len(source))
    kind = {supsup: supsup.Supsup, exssnet: exssnet.Exssnet}[module]
    strategy = kind(module.Config(density=0.05), setting)
    ledger = Ledger(source, np.zeros(len(source), dtype=np.int64))
    for t in range(TASKS):
        experience = ledger.admit(Experience(f"task-{t}", (t,), source.train_ids, t))
        strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
    return strategy


def switching(strategy: Any, source: Source, rounds: int) -> Result:
    """Answers to 100 batches of 256, another task each time, over plain forward passes of those batches."""
    plain = make_model("mlp")
    plain.train(False)
    batch = Data(source.test_ids, source.x, source.y, None).batch(torch.arange(256))
    asks = [replace(batch, task=torch.full((256,), t)) for t in range(TASKS)]

    def ours() -> object:
        return [strategy.predict(ask) for ask in asks]

    @torch.inference_mode()
    def forward() -> object:
        return [plain(batch.x) for _ in asks]

    costs = interleave({"ours": lambda: cpu_seconds(ours), "plain": lambda: cpu_seconds(forward)}, rounds)
    scaled = {side: [c / TASKS * 1e3 for c in each] for side, each in costs.items()}
    return ratio("batch of 256 of another task / plain forward", scaled["ours"], scaled["plain"], 1.5, True, "ms")


def memory(strategy: Any) -> Result:
    """State without the masks over one model."""
    state = strategy.state_dict()
    masks = sum(entry["bits"].numel() for entry in state["subnetworks"])
    share = (num_bytes(state) - masks) / make_model("mlp").num_bytes()
    return value("state of 100 tasks without masks / one model", [share], 1.3, "")


def inference(strategy: Any, source: Source, rounds: int) -> Result:
    """Who of 100 tasks knows a batch of 16: one forward and one backward, over trying every mask."""
    canvas, nets = strategy._canvas, strategy._nets
    x = source.x[source.test_ids[:16]]
    masks = [positions_of(net.bits, len(canvas)) for net in nets.values()]
    canvas.take_off()
    canvas.model.train(False)

    def by_slopes() -> object:
        def slopes(coefficients: torch.Tensor) -> torch.Tensor:
            return entropy_slopes(canvas.model, canvas.weights, masks, coefficients, x, 10)

        return one_shot(slopes, TASKS)

    @torch.inference_mode()
    def by_trying() -> object:
        means = []
        for net in nets.values():
            canvas.wear(net, net.bits, net.buffers)
            means.append(entropy(canvas.model(x)).mean())
        return int(torch.stack(means).argmin())

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: cpu_seconds(work) * 1e3

    costs = interleave({"ours": timed(by_slopes), "other": timed(by_trying)}, rounds)
    return ratio("one-shot / trying 100 masks, batch of 16", costs["ours"], costs["other"], 1.0, True, "ms")


def main() -> int:
    options = arguments(__doc__, rounds=7).parse_args()
    torch.set_num_threads(1)
    source = make_source(1_024)
    trained, masks = live(exssnet, source), live(supsup, source)
    results = [
        step_cost("mlp", options.rounds),
        step_cost("lenet", options.rounds),
        switching(trained, source, options.rounds),
        memory(trained),
        inference(masks, source, options.rounds),
    ]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
