"""Every option of `training` changes what is learned, or the strategy that cannot heed it is not built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_llama
from lifelong.setup.build import make_strategy
from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, Network
from streams.config import parse
from streams.errors import ConfigError
from streams.events import Experience
from streams.randomness import Key, seeded_globals

PLAIN: Final = {"epochs": 2, "lr": 0.05, "batch_size": 16}
ADAM: Final = {"optimizer": "adam"}
# For every option, among which others it can matter, and a value that is not its default.
CHANGES: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "optimizer": ({}, "adam"),
    "lr": ({}, 0.02),
    "momentum": ({}, 0.9),
    "weight_decay": ({}, 0.1),
    "betas": (ADAM, (0.5, 0.9)),
    "eps": (ADAM, 1e-2),
    "epochs": ({}, 4),
    "batch_size": ({}, 12),
    "clip_norm": ({}, 1e-3),
    "bn_mode": ({}, "eval"),
    "carry_optimizer": ({"momentum": 0.9}, True),
}
# What needs no effect: the value is what the strategy does anyway, or options of its own say it in its place.
OWN: Final = {
    ("avalanche", "carry_optimizer"): "Avalanche's optimizer lives on always",
    ("s3t", "bn_mode"): "the frozen model's norms go by their running statistics always",
    ("amnesiac-hat", "bn_mode"): "it is refused with a model that has batch norms",
    **{
        (name, key): "masks and weights are trained by Adam, at mask_lr and weight_lr"
        for name in ("exssnet", "ssnet", "supsup")
        for key in ("optimizer", "lr", "momentum")
    },
}
# Options of strategies without which they would refuse all of those trainings.
OPTIONS: Final = {"amnesiac-hat": {"architecture": "hat", "repair": "none"}}


class _Norm(nn.BatchNorm1d):
    """Batch norm of four channels, which share the features or hidden states ``[..., F]`` among them."""

    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(-1, 4, x.shape[-1] // 4)).view_as(x)


def _model(objective: Objective, name: str) -> FlatModel:
    with seeded_globals(Key(0) / "init"):
        if isinstance(objective, CausalLM):
            sizes = tiny_llama.Config(width=8, inner=8, depth=1, heads=2)
            network = tiny_llama.build(sizes, (2, 64), objective.num_outputs)
            network.body.inner.norm = _Norm()
            return FlatModel(network)
        layers = [nn.Linear(64, 12), *([] if name == "amnesiac-hat" else [_Norm()]), nn.ReLU()]
        return FlatModel(Network(nn.Sequential(*layers), nn.Linear(12, objective.num_outputs)))


Learned = Callable[[dict[str, Any]], torch.Tensor]
_LEARNED: dict[tuple[str, str], torch.Tensor] = {}


@pytest.fixture
def learned(half: Any, place: str, kit: Any) -> Learned:
    """What a strategy's models say of test samples after the first samples of two experiences, under some training."""
    world, name = kit.world(place), half.name.removesuffix("+none")
    config = (
        half.config if name not in OPTIONS else parse(StrategyConfig, {"isolated": {"name": name, **OPTIONS[name]}})
    )

    def live(training: dict[str, Any]) -> torch.Tensor:
        objective = world.setting.objective
        setting = replace(
            world.setting,
            training=Training.model_validate({**PLAIN, **training}),
            make_model=lambda: _model(objective, name),
        )
        strategy, ledger = make_strategy(config, setting, "it"), world.ledger()
        for event in [e for e in world.stream.events if isinstance(e, Experience)][:2]:
            experience = ledger.admit(replace(event, sample_ids=event.sample_ids[:30]))
            strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
        return torch.cat(strategy.constituents(ledger.lend(world.stream.source.test_ids[:20]).all()))

    def remembered(training: dict[str, Any]) -> torch.Tensor:
        key = (half.name, repr(training))
        if key not in _LEARNED:
            _LEARNED[key] = live(training)
        return _LEARNED[key]

    return remembered


@pytest.mark.parametrize("option", Training.model_fields)
def test_an_option_of_training_takes_effect_or_is_refused(half: Any, option: str, learned: Learned) -> None:
    others, value = CHANGES[option]
    assert value != Training.model_fields[option].default
    before, why = learned(others), ""
    try:
        after = learned({**others, option: value})
    except ConfigError as error:
        after, why = None, str(error)
    if after is None:
        assert f"training.{option}" in why
    else:
        name = half.name.removesuffix("+none")
        assert torch.equal(before, after) == ((name, option) in OWN)


def test_what_cannot_be_heeded_is_named_with_its_remedy(kit: Any) -> None:
    world = kit.world("class-incremental")
    config = parse(StrategyConfig, {"isolated": {"name": "pall", "memory": 50}})
    message = (
        r"mine\.isolated: pall cannot heed training\.bn_mode: \"eval\", since batch norms keep no statistics in it.* "
        r"Set it to \"train\", or leave pall out of this run\."
    )
    with pytest.raises(ConfigError, match=message):
        make_strategy(config, replace(world.setting, training=Training(bn_mode="eval")), "mine")


def test_amnesiac_hat_takes_no_model_with_batch_norms(kit: Any) -> None:
    setting = kit.world("class-incremental").setting
    config = parse(StrategyConfig, {"isolated": "amnesiac-hat"})
    with pytest.raises(ConfigError, match="the model has a _Norm with weights of its own"):
        make_strategy(config, replace(setting, make_model=lambda: _model(setting.objective, "any")), "mine")
