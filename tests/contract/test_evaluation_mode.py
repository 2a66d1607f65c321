"""Evaluations draw no noise and move no statistics: of the model itself, and of teachers, proxies and surveys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.candidates import everywhere
from contract.worlds import First, first_layers, first_of, llama_with_norm, small_denoiser
from torch import nn

from lifelong.setup.build import make_strategy
from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.denoising import Denoising
from strategies.parts.model import FlatModel, Network
from strategies.step import step
from streams.events import DeletionRequest, Event
from streams.randomness import Key, seeded_globals

REQUESTS = 2
CANDIDATES = [
    pytest.param(c, form, id=f"{form}-{c.name}", marks=[pytest.mark.nightly] if c.sampled or form != c.home else [])
    for c, form in everywhere()
]


class Witness(nn.Module):
    """Batch norm of four channels, then dropout; it counts passes in training mode that no gradient is wanted of."""

    without_gradient = 0

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4, affine=affine), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not torch.is_grad_enabled():
            Witness.without_gradient += 1
        out: torch.Tensor = self.dropout(self.norm(x.reshape(-1, 4, x.shape[-1] // 4))).view_as(x)
        return out


class _Watched(nn.Module):
    """The body of a denoiser with a witness behind it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.witness = inner, Witness()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.witness(self.inner(*inputs))
        return out

    @classmethod
    def of(cls, network: Network) -> Network:
        return Network(cls(network.body), network.head)


def noisy_model(objective: Objective, affine: bool, first: First) -> FlatModel:
    with seeded_globals(Key(0) / "init"):
        if isinstance(objective, CausalLM):
            return llama_with_norm(Witness(), objective.num_outputs, first)
        if isinstance(objective, Denoising):
            return FlatModel(_Watched.of(small_denoiser(objective)))
        body = nn.Sequential(nn.Flatten(), *first_layers(first), Witness(affine))
        return FlatModel(Network(body, nn.Linear(12, objective.num_outputs)))


def _until_served(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Events up to and with the last of the first requests."""
    served = [i for i, e in enumerate(events) if isinstance(e, DeletionRequest)]
    return events[: served[:REQUESTS][-1] + 1]


@pytest.mark.parametrize(("strategy_of", "form"), CANDIDATES)
def test_an_evaluation_draws_no_noise(kit: Any, strategy_of: Any, form: str) -> None:
    """A pass in training mode has a gradient taken of it, and draws from its training's own generator."""
    world = kit.world(strategy_of.place(form))
    affine = "amnesiac-hat" not in strategy_of.name  # it takes no norms with weights
    first = first_of(world.name)
    setting = replace(world.setting, make_model=lambda: noisy_model(world.setting.objective, affine, first))
    strategy, ledger = make_strategy(strategy_of.config, setting, "it"), world.ledger()
    Witness.without_gradient = 0
    for event in _until_served(world.stream.events):
        before = torch.random.get_rng_state()
        step(strategy, event, ledger)
        assert Witness.without_gradient == 0, f"{event.name}: evaluated in training mode"
        assert torch.equal(torch.random.get_rng_state(), before), f"{event.name}: noise was drawn outside of training"
