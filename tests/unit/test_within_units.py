"""Strategies that know no classes but those of a task refuse a stream that brings others, before any compute."""

from __future__ import annotations

from typing import Any

import pytest

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.setup.suitability import check_stream
from strategies.step import step
from streams.config import parse
from streams.errors import ConfigError, TrainingError
from streams.ledger import Ledger

ISOLATED = ("amnesiac-hat", "exssnet", "pall", "ssnet", "supsup", "uncle", "clpu-der", "independent", "sisa")
REFUSE = ISOLATED[:6]


@pytest.mark.parametrize("name", ISOLATED)
def test_blurred_classes_are_refused_by_who_would_not_know_them(name: str) -> None:
    training = {"epochs": 1, "batch_size": 64, "lr": 0.02}
    options: dict[str, Any] = {"isolated": name}
    for scenario, blur in (("class-incremental", {}), ("blurry", {"blur": 0.1})):
        config = parse(
            RunConfig,
            {
                "scenario": {"name": scenario, "experiences": 5, **blur},
                "schedule": "none",
                "model": {"name": "mlp", "hidden": [16]},
                "training": training,
                "strategies": {"it": options},
            },
        )
        stream = make_stream(config, make_source(config))
        strategy = make_strategy(config.strategies["it"], make_setting(config, stream), "mine")
        if scenario == "blurry" and name in REFUSE:
            with pytest.raises(ConfigError, match=r"mine\.isolated: of task-0 it would know .* of class \d come"):
                check_stream(strategy, stream, "mine")
            if name == "amnesiac-hat":  # this is what would come of it
                with pytest.raises(TrainingError, match="inf"):
                    step(strategy, stream.events[0], Ledger(stream.source, stream.task_of))
        else:
            check_stream(strategy, stream, "mine")
