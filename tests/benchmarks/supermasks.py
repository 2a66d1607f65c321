"""Supermasks: a mask-training step, switching tasks, memory, and inferring the task, for 100 tasks on one network.

python tests/benchmarks/supermasks.py
"""

from __future__ import annotations

import gc
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
from strategies.isolated._supermasks import (
    Lens,
    ScoreStep,
    entropy,
    initial_scores,
    layers_of,
    maskable,
    one_shot,
    positions_of,
    signed_constants,
    slopes_of,
    spans_of,
)
from strategies.objectives.classification import Classification
from strategies.parts.fit import FitConfig, Training, fit
from strategies.parts.model import FlatModel, num_bytes
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
    spans = spans_of(layers, 0.1, "head", 10)
    masked.parameters.copy_(signed_constants(masked.parameters, layers))
    lens = Lens(masked)

    def train_plain() -> float:
        return cpu_seconds(lambda: fit(plain, objective, data, ADAM, KEY))

    def train_mask() -> float:
        step = ScoreStep(ADAM, initial_scores(layers, KEY, torch.device("cpu")), spans, 1, steps, "constant")
        lens.show(step.mask)
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


def switching(strategy: Any, source: Source, rounds: int) -> list[Result]:
    """Answers to 100 batches of 256, another task each time: over the same task's, and over plain forward passes."""
    plain = make_model("mlp")
    plain.train(False)
    batch = Data(source.test_ids, source.x, source.y, None).batch(torch.arange(256))
    batches = [replace(batch, task=torch.full((256,), t)) for t in range(TASKS)]

    def ours() -> object:
        return [strategy.predict(b) for b in batches]

    def alike() -> object:
        return [strategy.predict(batches[0]) for _ in batches]

    @torch.inference_mode()
    def forward() -> object:
        return [plain(batch.x) for _ in batches]

    sides = {"ours": ours, "alike": alike, "plain": forward}
    costs = interleave({name: (lambda work=work: cpu_seconds(work)) for name, work in sides.items()}, rounds)
    scaled = {side: [c / TASKS * 1e3 for c in each] for side, each in costs.items()}
    return [
        ratio("batch of 256, another task each time / the same task", scaled["ours"], scaled["alike"], 1.1, True, "ms"),
        ratio("batch of 256 of another task / plain forward", scaled["ours"], scaled["plain"], 1.5, True, "ms"),
    ]


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive in this process, shared storage counted once."""
    gc.collect()
    found = (o.untyped_storage() for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
    return sum({s.data_ptr(): s.nbytes() for s in found}.values())


def memory(strategy: Any, held: int) -> list[Result]:
    """What is saved, and what is in memory, without the masks, over one model (there: with its gradient)."""
    state = strategy.state_dict()
    masks = sum(entry["bits"].numel() for entry in state["subnetworks"])
    saved = (num_bytes(state) - masks) / make_model("mlp").num_bytes()
    before = tensor_bytes()
    plain = make_model("mlp")
    in_memory = (held - masks) / (tensor_bytes() - before)
    del plain
    return [
        value("state of 100 tasks without masks / one model", [saved], 1.3, ""),
        value("100 tasks in memory without masks / one model", [in_memory], 1.3, ""),
    ]


def inference(strategy: Any, source: Source, rounds: int) -> Result:
    """Who of 100 tasks knows a batch of 16: one forward and one backward, over trying every mask."""
    canvas, nets = strategy._canvas, strategy._nets
    x = source.x[source.test_ids[:16]]
    masks = [positions_of(net.bits, len(canvas)) for net in nets.values()]
    canvas.model.train(False)

    def by_slopes() -> object:
        def slopes(coefficients: torch.Tensor) -> torch.Tensor:
            return slopes_of(canvas.model, canvas.lens, masks, coefficients, x, lambda logits: entropy(logits[:, :10]))

        return one_shot(slopes, TASKS)

    @torch.inference_mode()
    def by_trying() -> object:
        means = []
        for net in nets.values():
            canvas.wear(net)
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
    before = tensor_bytes()
    trained = live(exssnet, source)
    held = tensor_bytes() - before
    masks = live(supsup, source)
    results = [
        step_cost("mlp", options.rounds),
        step_cost("lenet", options.rounds),
        *switching(trained, source, options.rounds),
        *memory(trained, held),
        inference(masks, source, options.rounds),
    ]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
