"""Rounding looks at the weights as they are, in evaluation mode, and leaves those alone that other models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong.audits import quantise
from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.setup.instruments import make_instruments
from streams.config import parse

CONFIG: dict[str, Any] = {
    "source": {
        "name": "people",
        "people": 2,
        "groups": 1,
        "holdout": 2,
        "world": False,
        "answers": "short",
        "vocabulary": 320,
    },
    "scenario": "joint",
    "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [1]}]},
    "objective": "causal-lm",
    "model": {"name": "tiny-llama", "width": 8, "inner": 16, "depth": 2, "heads": 2, "dropout": 0.5, "tied": False},
    "trained": "head",
    "strategies": {"none": {"unlearner": "none"}},
    "evaluation": {"audits": "quantise"},
}


def test_every_number_of_bits_begins_at_the_weights_and_shared_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    config = parse(RunConfig, CONFIG)
    stream = make_stream(config, make_source(config))
    setting = make_setting(config, stream)
    plan = plan_evaluation(stream, config.evaluation, setting.objective.measurements())
    (audit,) = make_instruments(config.evaluation, stream, plan, setting, "cpu").audits
    assert isinstance(audit, quantise.Quantise)
    strategy: Any = make_strategy(config.strategies["none"], setting, "none")
    weights = [p.clone() for p in strategy.learner.model.network.parameters()]
    seen: list[list[torch.Tensor]] = []
    rounded = quantise.round_weights

    def spying(layers: Any, bits: int) -> None:
        seen.append([p.detach().clone() for p in layers.parameters()])
        rounded(layers, bits)
        assert any(not torch.equal(a, b) for a, b in zip(seen[-1], layers.parameters(), strict=True))

    monkeypatch.setattr(quantise, "round_weights", spying)
    values = audit.of_request(strategy, 1, plan.requests[0])
    assert len(seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    for model in (strategy.learner.model, setting.make_model()):
        assert all(torch.equal(a, b) for a, b in zip(weights, model.network.parameters(), strict=True))
    strategy.learner.model.train(True)
    again = audit.of_request(strategy, 1, plan.requests[0])
    assert {name: float(v) for name, v in again.items()} == {name: float(v) for name, v in values.items()}  # type: ignore[arg-type]
