"""Small streams of real digits (to be told or drawn), text and pictures; their ledgers' doors note what they lend."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.models import mlp_denoiser, tiny_llama, tiny_llava, tiny_mixtral
from lifelong.setup.build import make_strategy
from lifelong.verification.replay import answers
from strategies.base import Access, Door, Setting, Strategy
from strategies.objectives._base import EVALUATION, Objective
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.causal_lm import Config as CausalLMConfig
from strategies.objectives.classification import Classification
from strategies.objectives.denoising import Config as DenoisingConfig
from strategies.objectives.denoising import Denoising
from strategies.objectives.regression import Regression
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, Network
from streams.config import parse
from streams.data import Data
from streams.ledger import Ledger
from streams.plan import Again, Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental, online, task_incremental
from streams.schedules import explicit, published
from streams.source import Source
from streams.sources import instructions, people
from streams.stream import Stream

if TYPE_CHECKING:
    from contract.candidates import Candidate


CONVOLVED = ", convolved"
OF_EXPERTS = ", of experts"
"""Ends the name of a world whose model has a convolution."""
First = Literal["flat", "shaped", "convolved", "experts"]
"""What a model looks at: rows of numbers, images, or rows that it makes images of for a convolution."""


@dataclass(frozen=True, eq=False)
class World:
    """A stream and what strategies are built in."""

    name: str
    stream: Stream
    setting: Setting
    original: Source | None = None
    """What strategies are asked about; None for the stream's own source."""
    device: str = "cpu"

    def build(self, candidate: Candidate, seed: int = 0) -> Strategy:
        """Build a candidate here, in its initial state."""
        noisy = self.name.startswith(("task-incremental", "declared"))
        make_model = partial(_model, self.setting.objective, seed, noisy, self.device, first_of(self.name))
        setting = replace(self.setting, key=Key(seed), make_model=make_model)
        return make_strategy(candidate.config, setting, candidate.name)

    def ledger(self, declared: Access | None = None) -> SpyLedger:
        return SpyLedger(self.stream.source, self.stream.task_of, declared, self.device)

    def altered(self, ids: np.ndarray) -> World:
        """The same life of the same ids, but what these rows hold is something else altogether."""
        source, draw, ids = self.stream.source, np.random.default_rng(7), ids.copy()  # torch warns of what is read-only
        x, y = source.x.clone(), source.y.clone()
        if x.is_floating_point():
            x[ids] = torch.from_numpy(draw.normal(size=x[ids].shape).astype(np.float32))
        else:  # other tokens in the same places
            x[ids, 0] = torch.from_numpy(draw.integers(4, 300, size=x[ids, 0].shape).astype(np.int32))
        if y.is_floating_point():
            y[ids] = torch.from_numpy(draw.normal(size=len(ids)).astype(np.float32))
        else:  # another class of the same task, so that task-incremental masks permit it
            task_of = {c: unit.classes for unit in self.stream.units for c in unit.classes}
            y[ids] = torch.tensor([next(c for c in task_of[int(v)] if c != int(v)) for v in y[ids]])
        images = None if source.images is None else source.images.clone()
        if images is not None:
            images[ids] = torch.from_numpy(draw.integers(0, 256, size=images[ids].shape).astype(np.uint8))
        altered = replace(self.stream, source=replace(source, x=x, y=y, images=images))
        return replace(self, stream=altered, original=source)

    def answers(self, strategy: Strategy) -> str:
        """What a strategy says of the source as it is, outputs and features, as a digest.

        It is asked about every fifth sample, and about some that each request of this world deletes.
        """
        deleted = [request.sample_ids[:4] for request in self.stream.requests]
        rows = np.unique(np.concatenate([np.arange(0, len(self.stream.source), 5), *deleted]))
        data = Ledger(self.original or self.stream.source, self.stream.task_of, self.device).lend(rows)
        objective = self.setting.objective
        return answers(strategy, [objective.asked(objective.drawn(b, EVALUATION)) for b in data.batches(128)])


class SpyLedger(Ledger):
    """A ledger whose doors write down everything they lend."""

    def __init__(
        self, source: Source, task_of: np.ndarray | None, declared: Access | None = None, device: str = "cpu"
    ) -> None:
        super().__init__(source, task_of, device)
        self.declared = declared
        self.doors: list[SpyDoor] = []

    def door(
        self, access: Access, own: np.ndarray, to_forget: np.ndarray | None = None, kept: np.ndarray | None = None
    ) -> SpyDoor:
        self.doors.append(SpyDoor(self, self.declared or access, own, to_forget, kept))
        return self.doors[-1]


class SpyDoor(Door):
    """A door that remembers what was lent, and in which state each sample was at that moment."""

    def __init__(
        self,
        ledger: SpyLedger,
        access: Access,
        own: np.ndarray,
        to_forget: np.ndarray | None,
        kept: np.ndarray | None,
    ) -> None:
        super().__init__(ledger, access, own, to_forget, kept)
        self.ledger, self.access, self.own = ledger, access, own
        self.lent: list[Data] = []
        self.fetched: list[np.ndarray] = []
        self.states: set[int] = set()
        self.forget_set_lent = False

    def fetch(self, ids: np.ndarray) -> Data:
        self.fetched.append(ids.copy())
        self.states |= set(self.ledger.life[ids].tolist())
        self.lent.append(super().fetch(ids))
        return self.lent[-1]

    def forget_set(self) -> Data:
        self.forget_set_lent = True
        self.lent.append(super().forget_set())
        return self.lent[-1]

    @property
    def earlier(self) -> np.ndarray:
        """Distinct samples that were fetched and do not belong to the experience."""
        return np.setdiff1d(np.concatenate([np.array([], dtype=np.int64), *self.fetched]), self.own)


class Noisy(nn.Module):
    """Draws from torch's global generator and keeps a running mean, as dropout and batch normalisation do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            x = nn.functional.dropout(x, 0.2)
        return x - self.mean


def _model(objective: Objective, seed: int, noisy: bool, device: str, first: First = "flat") -> FlatModel:
    with seeded_globals(Key(seed) / "init"):
        return FlatModel(_network(objective, noisy, first).to(device))


def _setting(objective: Objective, training: Training, stream: Stream, device: str, first: First = "flat") -> Setting:
    make_model = partial(_model, objective, 0, False, device, first)
    return Setting(Key(0), make_model, objective, training, stream.units, len(stream.source), device=device)


def _network(objective: Objective, noisy: bool, first: First) -> nn.Module:
    if isinstance(objective, CausalLM) and objective.text is not None and objective.text.image_tokens:
        small = tiny_llava.Config(
            width=8, inner=8, depth=1, heads=2, vision_width=8, vision_inner=8, vision_heads=2, patch=8
        )
        return tiny_llava.build(small, (2, 64, 2, 1, 16, 16), objective.num_outputs)
    if isinstance(objective, CausalLM):
        return _language_network(objective.num_outputs, first)
    if isinstance(objective, Denoising):
        return small_denoiser(objective)
    layers = [*first_layers(first), *([Noisy(12)] if noisy else [])]
    return Network(nn.Sequential(*layers), nn.Linear(12, objective.num_outputs))


def first_of(world: str) -> First:
    """What models of that world look at."""
    if world.endswith(OF_EXPERTS):
        return "experts"
    return "convolved" if world.endswith(CONVOLVED) else "shaped" if world == "shaped" else "flat"


def first_layers(first: First) -> list[nn.Module]:
    """From a digit to 12 numbers."""
    if first == "convolved":
        kernels = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, stride=3), nn.Flatten()]
        return [*kernels, nn.Linear(16, 12), nn.ReLU()]
    return [*([nn.Flatten()] if first == "shaped" else []), nn.Linear(64, 12), nn.ReLU()]


def small_denoiser(objective: Denoising) -> Network:
    """A denoiser of one small block whose answers are not all grey."""
    config = mlp_denoiser.Config(width=12, blocks=1, words=4)
    network = mlp_denoiser.build(config, *objective.sizes((64,)))
    nn.init.normal_(network.head.weight, std=0.1)
    return network


def _language_network(num_outputs: int, first: First) -> Network:
    """A language model of one small block, with experts or without."""
    if first == "experts":
        sizes = tiny_mixtral.Config(width=8, inner=8, depth=1, heads=2, experts=3)
        return tiny_mixtral.build(sizes, (2, 64), num_outputs)
    return tiny_llama.build(tiny_llama.Config(width=8, inner=8, depth=1, heads=2), (2, 64), num_outputs)


def llama_with_norm(norm: nn.Module, num_outputs: int, first: First = "flat") -> FlatModel:
    """The same, with another last norm."""
    network = _language_network(num_outputs, first)
    network.body.inner.norm = norm
    return FlatModel(network)


def _source() -> Source:
    """The first 36 digits of each class."""
    from streams.sources import digits

    whole = digits.load(digits.Config(users=6))
    rows = np.sort(np.concatenate([np.flatnonzero(whole.class_ids == c)[:36] for c in range(10)]))
    columns = {name: getattr(whole, name)[rows] for name in ("x", "y", "class_ids", "user_ids", "is_test")}
    return replace(whole, **columns)


REQUESTS = [
    {"after": 1, "scope": "sample", "count": 6},
    {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
    {"after": 3, "scope": "user", "keys": [2]},
    {"after": 4, "scope": "task", "keys": [0]},
    {"after": 5, "scope": "sample", "count": 6},
]
CLASS_REQUESTS = [
    {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
    {"after": 3, "scope": "class", "keys": [3]},
    {"after": 4, "scope": "task", "keys": [0]},
    {"after": 5, "scope": "class", "keys": [4]},
]


def _world_of_text(name: str, device: str) -> World:
    """Two people, ten facts each, in short answers."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("LIFELONG_CACHE", folder)
        source = people.load(people.Config(people=2, groups=1, holdout=2, world=False, answers="short", vocabulary=320))
    requests = [
        {"after": 1, "scope": "sample", "count": 3},
        {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
        {"after": 3, "scope": "user", "keys": [1]},
    ]
    plan = class_incremental.build(source, class_incremental.Config(experiences=3), 0)
    scheduled = explicit.place(plan, parse(explicit.Config, {"requests": requests}), Key(0))
    stream = assemble(plan, scheduled, Service(), Key(0) / "requests")
    objective = CausalLM.for_data(CausalLMConfig(loss_on="all"), source, None, device)
    training = Training(epochs=1, lr=0.05, batch_size=16)
    setting = _setting(objective, training, stream, device, first_of(name))
    return World(name, stream, setting, device=device)


def _world_of_pictures(device: str) -> World:
    """Four skills in two experiences: instructions with pictures of digits."""
    options = {"distributors": ["numbers"], "samples": 60, "test": 4, "characters": 3, "size": 16}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("LIFELONG_CACHE", folder)
        source = instructions.load(parse(instructions.Config, options | {"users": 3, "vocabulary": 320}))
    requests = [
        {"after": 1, "scope": "sample", "count": 3},
        {"after": 1, "scope": "class", "keys": [1], "again_after": 2},
        {"after": 2, "scope": "user", "keys": [2]},
    ]
    plan = class_incremental.build(source, class_incremental.Config(experiences=2), 0)
    scheduled = explicit.place(plan, parse(explicit.Config, {"requests": requests}), Key(0))
    stream = assemble(plan, scheduled, Service(), Key(0) / "requests")
    objective = CausalLM.for_data(CausalLMConfig(), source, None, device)
    training = Training(epochs=1, lr=0.05, batch_size=16)
    setting = _setting(objective, training, stream, device)
    return World("pictures", stream, setting, device=device)


def _world_of_images(device: str) -> World:
    """The digits in three experiences, to be drawn."""
    requests = [
        {"after": 1, "scope": "class", "keys": [1], "again_after": 2},
        {"after": 2, "scope": "class", "keys": [4]},
        {"after": 3, "scope": "task", "keys": [0]},
    ]
    source = _source()
    plan = class_incremental.build(source, class_incremental.Config(experiences=3), 0)
    scheduled = explicit.place(plan, parse(explicit.Config, {"requests": requests}), Key(0))
    stream = assemble(plan, scheduled, Service(), Key(0) / "requests")
    objective = Denoising.for_data(DenoisingConfig(steps=2), source, None, device)
    training = Training(epochs=1, lr=0.05, batch_size=40)
    setting = _setting(objective, training, stream, device)
    return World("images", stream, setting, device=device)


def make_world(full_name: str, device: str = "cpu") -> World:
    if full_name == "images":
        return _world_of_images(device)
    if full_name == "pictures":
        return _world_of_pictures(device)
    if full_name.removesuffix(OF_EXPERTS) == "text":
        return _world_of_text(full_name, device)
    by_class = full_name.removesuffix(CONVOLVED).endswith(" by class")
    name = full_name.removesuffix(CONVOLVED).removesuffix(" by class")
    source, scenario, requests = _source(), class_incremental, CLASS_REQUESTS if by_class else REQUESTS
    objective: Objective = Classification(10)
    if name in ("task-incremental", "everything-task-aware", "declared"):
        scenario = task_incremental
        objective = Classification(10, tuple((2 * t, 2 * t + 1) for t in range(5)), device)
    if name == "shaped":
        source = replace(source, x=source.x.view(-1, 1, 8, 8))
    if name.endswith("regression"):
        target = source.x.mean(1) + torch.from_numpy(source.class_ids).float() / 10
        source, objective = replace(source, y=target), Regression()
    if name.startswith("everything"):
        requests = [{"after": 5, "scope": "task", "keys": [0, 1, 2, 3, 4], "again_after": 5}]
    plan = scenario.build(source, scenario.Config(experiences=5), 0)
    if name.startswith("online"):
        plan = online.build(source, online.Config(experiences=5, chunk=5), 0)
        requests = [{"after": 7 + 4 * i, "scope": "sample", "count": 2} for i in range(6)]
        if by_class:
            requests = [{"after": a, "scope": "class", "keys": [c]} for c, a in enumerate((7, 15, 19, 27))]
        plan = replace(plan, experiences=plan.experiences[:30])
    scheduled = explicit.place(plan, parse(explicit.Config, {"requests": requests}), Key(0))
    if name == "declared":  # permanent or temporary; one becomes permanent, and one that was deleted comes again
        scheduled = [*published.place(plan, published.Config(sequence="clpu"), Key(0)), Again(0)]
    stream = assemble(plan, scheduled, Service(wait_for=2 if name.startswith("lazy") else 1), Key(0) / "requests")
    training = Training(epochs=2, lr=0.05, batch_size=40)
    if name == "carrying":
        training = training.model_copy(update={"momentum": 0.5, "carry_optimizer": True})
    setting = _setting(objective, training, stream, device, first_of(full_name))
    return World(full_name, stream, setting, device=device)


@functools.cache
def world_of(name: str) -> World:
    """Make a world once."""
    return make_world(name)
