"""What methods declare to be under some of their options: it is true, and it is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_stream
from lifelong.setup.preparation import prepare
from lifelong.setup.suitability import part_of
from strategies.base import Unlearner
from strategies.step import step
from streams.config import parse
from streams.ledger import Ledger
from streams.registry import class_of, entries, load

RUN: dict[str, Any] = {
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "class", "keys": [1]}]},
    "model": {"name": "mlp", "hidden": [8]},
    "training": {"epochs": 1, "batch_size": 128, "lr": 0.05},
}


def declared() -> Iterator[tuple[str, str, str]]:
    for kind in ("learners", "unlearners"):
        for name in entries(kind):
            for other in getattr(part_of(kind, load(kind, name)), "becomes", {}):
                yield kind, name, other


def strategy(kind: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    if kind == "learners":
        return {"learner": {"name": name, **options}, "unlearner": "none"}
    return {"learner": {"name": "replay", "memory": 50}, "unlearner": {"name": name, **options}}


def options_of(kind: str, name: str, other: str) -> dict[str, Any]:
    """Return options under which one is said to be the other; a layer for each that the model has."""
    becomes = part_of(kind, load(kind, name)).becomes[other]  # type: ignore[union-attr]
    return {key: 2 if value == "all layers" else value for key, value in becomes.items()}


def cases() -> Iterator[Any]:
    """All that is declared; by day one that follows its options, and one that follows the model."""
    for case in declared():
        yield pytest.param(*case, marks=[] if case[1] in ("l1-sparse", "cf-k") else pytest.mark.nightly)


@pytest.mark.parametrize(("kind", "name", "other"), list(cases()))
def test_it_is_the_other_method(kind: str, name: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one name for what is drawn, and with the other's own options as it has them itself."""
    monkeypatch.setattr(Unlearner, "name", "unlearner")
    options = options_of(kind, name, other)
    module, other_module = load(kind, name), load(kind, other)
    own = parse(module.Config, options).model_dump()
    shared = {key: own[key] for key in other_module.Config.model_fields if key in own}
    one, same = (weights(strategy(kind, *which)) for which in ((name, options), (other, shared)))
    assert torch.equal(one, same)
    otherwise = {"k": 1} if name == "cf-k" else {}
    assert not torch.equal(weights(strategy(kind, name, otherwise)), one), "it is something of its own otherwise"


def weights(of: dict[str, Any]) -> torch.Tensor:
    config = parse(RunConfig, RUN | {"strategies": {"a": of}})
    stream = make_stream(config, make_source(config))
    prepared = prepare(config, stream)
    life, ledger = prepared.strategies.build("a"), Ledger(stream.source, stream.task_of)
    for event in stream.events:
        step(life, event, ledger)
    return life.network().parameters.clone()  # type: ignore[union-attr]


def test_it_is_said_before_a_run() -> None:
    unlearner = {"name": "cf-k", "k": 2}
    made = prepare(parse(RunConfig, RUN | {"strategies": {"a": {"learner": "replay", "unlearner": unlearner}}}))
    assert made.strategies.became == [
        "strategies.a.unlearner.cf-k: with k: all layers it is finetune, but for what is drawn by its name."
    ]
    deeper = RUN | {"model": {"name": "mlp", "hidden": [8, 8]}}
    made = prepare(parse(RunConfig, deeper | {"strategies": {"a": {"learner": "replay", "unlearner": unlearner}}}))
    assert made.strategies.became == []


def test_an_unlearner_of_ones_own_declares_it_alike() -> None:
    setting = make_setting(config := parse(RunConfig, RUN), make_stream(config, make_source(config)))
    module = load("unlearners", "l1-sparse")
    unlearner = class_of(module, Unlearner)  # type: ignore[type-abstract]
    assert unlearner(parse(module.Config, {"gamma": 0}), setting).became() == "finetune"
    assert unlearner(parse(module.Config, {}), setting).became() is None
