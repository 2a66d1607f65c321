"""What a configuration sets in vain is said before a run, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lifelong.config.run import RunConfig
from lifelong.setup.without_effect import without_effect
from streams.config import parse
from streams.errors import StreamError

SGD = {"learner": "naive", "unlearner": "none"}
SUBNETWORKS = {"isolated": "supsup"}
MASKS = "strategies.b.isolated: supsup always has training.optimizer: "
Call = Callable[..., tuple[int, str, str]]


def said(training: dict[str, Any], **strategies: Any) -> list[str]:
    config = parse(RunConfig, {"training": training, "strategies": strategies})
    return without_effect(config.find_strategies(), config.training)


@pytest.mark.parametrize(
    ("training", "strategies", "expected"),
    [
        ({}, {"a": SGD, "b": SUBNETWORKS}, []),
        ({"optimizer": "adam"}, {"b": SUBNETWORKS}, []),
        ({"optimizer": "sgd"}, {"a": SGD, "b": SUBNETWORKS}, [f'{MASKS}"adam"; the run\'s "sgd" is for the others.']),
        ({"momentum": 0.9}, {"a": SGD, "b": SUBNETWORKS}, []),
        ({"momentum": 0.9}, {"b": SUBNETWORKS}, ["training.momentum: 0.9 is for sgd, and the optimizer is adam."]),
        ({"betas": [0.5, 0.9]}, {"a": SGD, "b": SUBNETWORKS}, []),
        ({"betas": [0.5, 0.9]}, {"a": SGD}, ["training.betas: [0.5, 0.9] is for adam, and the optimizer is sgd."]),
        ({"betas": [0.9, 0.999], "momentum": 0.0}, {"a": SGD}, []),
        (
            {"bn_mode": "train"},
            {"a": {"isolated": "s3t"}},
            ['strategies.a.isolated: s3t always has training.bn_mode: "eval"; the run\'s "train" is for the others.'],
        ),
        (
            {},
            {"a": {"learner": "naive", "unlearner": {"name": "finetune", "optimizer": "adam", "momentum": 0.5}}},
            ["strategies.a.unlearner.momentum: 0.5 is for sgd, and the optimizer is adam."],
        ),
    ],
)
def test_what_is_set_in_vain_is_said(training: dict[str, Any], strategies: Any, expected: list[str]) -> None:
    assert said(training, **strategies) == expected


def test_nested_options_are_looked_at() -> None:
    unlearner = {"name": "whp", "reinforce": {"momentum": 0.5, "optimizer": "adam"}}
    (line,) = said({}, a={"learner": "naive", "unlearner": unlearner})
    assert line == "strategies.a.unlearner.reinforce.momentum: 0.5 is for sgd, and the optimizer is adam."


def test_a_run_says_it_before_it_begins(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*arguments: Any) -> None:
        raise StreamError("it begins")

    monkeypatch.setattr("lifelong.execution.runner.run_prepared", begin)
    options = ["--set", "strategies={it: {isolated: {name: supsup}}}", "--set", "training.optimizer=sgd"]
    _, _, told = call("run", "quickstart", *options)
    assert told.index("supsup always has training.optimizer") < told.index("it begins")
