"""Every option of `training` changes what is learned, or the strategy that cannot heed it is not built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import pytest
import torch
from contract.worlds import llama_with_norm, small_denoiser
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.composed import Composed
from strategies.objectives._base import EVALUATION, Objective
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.denoising import Denoising
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, Network
from streams.config import parse
from streams.errors import ConfigError
from streams.events import Experience
from streams.randomness import Key, seeded_globals

PLAIN: Final = {"epochs": 1, "lr": 0.05, "batch_size": 10}
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
    "batch_size": ({}, 7),
    "clip_norm": ({}, 1e-3),
    "bn_mode": ({}, "eval"),
    "carry_optimizer": (ADAM, True),
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
            return llama_with_norm(_Norm(), objective.num_outputs)
        if isinstance(objective, Denoising):
            network = small_denoiser(objective)
            network.body.blocks[0].norm = _Norm()
            return FlatModel(network)
        layers = [nn.Linear(64, 12), *([] if name == "amnesiac-hat" else [_Norm()]), nn.ReLU()]
        return FlatModel(Network(nn.Sequential(*layers), nn.Linear(12, objective.num_outputs)))


class _Learned(NamedTuple):
    """What a strategy's models say of test samples after the first samples of two experiences, and what it declares."""

    outputs: torch.Tensor
    always: Mapping[str, object]


Learn = Callable[[dict[str, Any]], _Learned]
_LEARNED: dict[tuple[str, str], _Learned] = {}


@pytest.fixture
def learn(half: Any, place: str, kit: Any) -> Learn:
    """Let a strategy learn under some training; once for all options that share it."""
    world, name = kit.world(place), half.name.removesuffix("+none")
    config = (
        half.config if name not in OPTIONS else parse(StrategyConfig, {"isolated": {"name": name, **OPTIONS[name]}})
    )

    def live(training: dict[str, Any]) -> _Learned:
        objective = world.setting.objective
        setting = replace(
            world.setting,
            training=Training.model_validate({**PLAIN, **training}),
            make_model=lambda: _model(objective, name),
        )
        strategy, ledger = make_strategy(config, setting, "it"), world.ledger()
        for event in [e for e in world.stream.events if isinstance(e, Experience)][:2]:
            experience = ledger.admit(replace(event, sample_ids=event.sample_ids[:20]))
            strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
        asked = objective.drawn(ledger.lend(world.stream.source.test_ids[:20]).all(), EVALUATION)
        outputs = torch.cat(strategy.constituents(asked))
        return _Learned(outputs, strategy.learner.always if isinstance(strategy, Composed) else strategy.always)

    def remembered(training: dict[str, Any]) -> _Learned:
        key = (half.name, repr(training))
        if key not in _LEARNED:
            _LEARNED[key] = live(training)
        return _LEARNED[key]

    return remembered


@pytest.mark.parametrize("option", Training.model_fields)
def test_an_option_of_training_takes_effect_or_is_refused(half: Any, option: str, learn: Learn) -> None:
    others, value = CHANGES[option]
    default = Training.model_fields[option].default
    assert value != default
    before, why = learn(others), ""
    try:
        after = learn({**others, option: value})
    except ConfigError as error:
        after, why = None, str(error)
    if after is None:
        assert f"training.{option}" in why
        return
    assert before.always.get(option, value) != default, "what it always does is not the default"
    assert torch.equal(before.outputs, after.outputs) == (option in before.always)


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
