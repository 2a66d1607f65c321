"""What a look at the pool costs beside training, how long choosing takes, and what pruning holds in memory.

    python tests/benchmarks/selection.py

The survey takes gradient features and four scores of every sample; an epoch is one of `fit` with SGD in batches of 64.
CPU time at one thread. Memory is how far the peak of a process of its own rises.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, interleave, ratio, report, value

from lifelong.models import lenet, mlp, tiny_llama
from strategies.learners.adapt_infinity import Config, draw
from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.causal_lm import Config as TextConfig
from strategies.objectives.classification import Classification
from strategies.outcome import Outcome
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from strategies.parts.selection.clustering import clusters
from strategies.parts.selection.deduplication import earlier_similarity, least_redundant
from strategies.parts.selection.gradient_features import Kind, Projector, find_block, normalised
from strategies.parts.selection.survey import Look, Surveyed, survey
from streams.data import Data
from streams.randomness import Key, seeded_globals
from streams.text import ANSWER, GIVEN

SAMPLES, POOL = 10_000, 50_000
SCORES = ("perplexity", "el2n", "entropy", "grand")


def images() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(SAMPLES, 1, 28, 28, generator=generator)
    return Data(np.arange(SAMPLES), x, torch.randint(0, 10, (SAMPLES,), generator=generator), None)


def rows() -> Data:
    """Rows of 24 tokens, 8 of them the answer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(SAMPLES, 2, 24, dtype=torch.int32)
    x[:, 0] = torch.randint(4, 2000, (SAMPLES, 24), generator=generator, dtype=torch.int32)
    x[:, 1, :16], x[:, 1, 16:] = GIVEN, ANSWER
    return Data(np.arange(SAMPLES), x, torch.zeros(SAMPLES, dtype=torch.int64), None)


def features(name: str, make: Any, objective: Objective, data: Data, kind: Kind, rounds: int) -> Result:
    """Measure a survey against an epoch."""

    def model() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(make())

    surveyed, trained = model(), model()
    block = find_block(surveyed, None, "block")
    projector = Projector(kind, 256, Key(0), 256 << 20)
    look = Look(SCORES, block, projector)
    config = FitConfig(epochs=1, batch_size=64, lr=1e-3)
    sides = {
        "survey": lambda: cpu_seconds(lambda: survey(surveyed, objective, data, look)),
        "epoch": lambda: cpu_seconds(lambda: fit(trained, objective, data, config, Key(0))),
    }
    costs = interleave(sides, rounds, warm_up=False)
    return ratio(f"survey of 10,000 samples, {name}, {kind}, in epochs", costs["survey"], costs["epoch"], 4.0, True)


def choosing() -> Result:
    """Cluster and draw from 50,000 samples of 20 skills."""
    generator = np.random.default_rng(0)
    skill = generator.integers(0, 20, POOL)
    centres = generator.normal(size=(20, 256))
    found = normalised(torch.from_numpy((centres[skill] + generator.normal(size=(POOL, 256))).astype(np.float32)))
    scores = {name: generator.gamma(1 + i, size=POOL) for i, name in enumerate(SCORES)}
    surveyed = Surveyed(scores, found, torch.zeros(POOL, 0), 0.0, Outcome())  # type: ignore[arg-type]
    started = time.perf_counter()
    labels = clusters(found.numpy(), 10, Key(0))
    allowed, ids = np.ones(POOL, dtype=bool), np.arange(POOL)
    drawn, _, _ = draw(surveyed, labels, allowed, ids, POOL // 10, Key(0), Config())
    seconds = time.perf_counter() - started
    assert drawn.sum() == POOL // 10
    return value("clusters of 50,000 samples and a draw, wall", [seconds], 60.0, "s")


def peak() -> float:
    """Return the highest resident size of this process so far, in GiB (Linux; `getrusage` also counts its parent's)."""
    line = next(e for e in Path("/proc/self/status").read_text().splitlines() if e.startswith("VmHWM"))
    return int(line.split()[1]) / 1024**2


def _prune() -> tuple[float, float]:
    torch.set_num_threads(1)
    features = torch.randn(POOL, 128, generator=torch.Generator().manual_seed(0))
    before = peak()
    started = time.perf_counter()
    similarity, _ = earlier_similarity(features, 256 << 20)
    stays = least_redundant(similarity, POOL // 2)
    seconds = time.perf_counter() - started
    assert stays.sum() == POOL // 2
    return seconds, peak() - before


def pruning() -> list[Result]:
    """Prune one cluster of 50,000, the worst case, with blocks of 256 MiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, gib = pool.submit(_prune).result()
    return [
        value("pruning one cluster of 50,000, peak memory", [gib], 1.0, "GiB"),
        value("the same, wall", [seconds], 60.0, "s"),
    ]


def main() -> int:
    options = arguments(__doc__, rounds=3).parse_args()
    torch.set_num_threads(1)
    objective, data = Classification(10), images()
    text, lines = CausalLM(2000, None, TextConfig()), rows()
    models: list[tuple[str, Any, Objective, Data]] = [
        ("tiny-llama", lambda: tiny_llama.build(tiny_llama.Config(), (2, 24), 2000), text, lines),
        ("MLP 784-256-256-10", lambda: mlp.build(mlp.Config(), (1, 28, 28), 10), objective, data),
        ("LeNet", lambda: lenet.build(lenet.Config(), (1, 28, 28), 10), objective, data),
    ]
    kinds: tuple[Kind, ...] = ("rademacher", "tensor-sketch")
    results = [*pruning(), choosing()]
    results += [features(*model, kind, options.rounds) for model in models for kind in kinds]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
