"""Lives of a tiny Llama that test modules of text play by hand; pytest puts this folder on the path (see `lives`)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_llama
from lifelong.setup.build import make_strategy
from strategies.base import Guard, Setting, State
from strategies.composed import Composed
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.data import Batch, Data
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import people

PAIRED = ("npo", "simnpo", "graddiff", "topr", "idk", "dpo", "flat", "ihl")
ONE_STEP = {"epochs": 1, "batch_size": 64, "optimizer": "sgd", "lr": 0.01, "clip_norm": None}
G = TypeVar("G", bound=Guard)


@dataclass(frozen=True)
class Life:
    """A source, a setting, and a strategy that has learned everything."""

    source: Source
    setting: Setting
    strategy: Composed
    ledger: Ledger

    @property
    def model(self) -> FlatModel:
        return self.strategy.learner.model

    def forget(self, user: int | None = 0, name: str = "request-0") -> Any:
        ids = self.source.train_ids
        ids = ids if user is None else ids[self.source.user_ids[ids] == user]
        ids = np.setdiff1d(ids, self.ledger.deleted_ids)
        nothing = np.array([], dtype=np.int64)
        request = DeletionRequest(name, (Request("sample", tuple(ids.tolist()), ids, nothing, 0),))
        self.ledger.delete(request)
        door = self.ledger.door(self.strategy.access, nothing, ids)
        outcome = self.strategy.forget(request, door)
        door.close()
        return outcome

    def data(self, user: int, test: bool = False) -> Data:
        ids = np.flatnonzero((self.source.user_ids == user) & (self.source.is_test == test))
        return Data(ids, self.source.x, self.source.y, None)


def live(source: Source, unlearner: str, *, passes: int = 2, learner: str = "naive", **options: Any) -> Life:
    """Return a life in which everything was learned; it is learned once for all unlearners."""
    life = _begin(source, unlearner, passes, learner, **options)
    life.strategy.learner.load_state_dict(_learned(source, passes, learner))
    life.ledger.admit(Experience("all", (), source.train_ids))
    return life


def guarded(source: Source, guard: str, passes: int = 25, **options: Any) -> Life:
    """Return such a life with a guard and no unlearner."""
    life = live(source, "none", passes=passes)
    config = parse(StrategyConfig, {"guard": {"name": guard, **options}})
    strategy = make_strategy(config, life.setting, "it")
    assert isinstance(strategy, Composed)
    strategy.learner.load_state_dict(life.strategy.learner.state_dict())
    ledger = Ledger(source)
    ledger.admit(Experience("all", (), source.train_ids))
    return Life(source, life.setting, strategy, ledger)


def guard_of(kind: type[G], life: Life) -> G:
    """Return the guard of a life, which is of that kind."""
    assert isinstance(life.strategy.guard, kind)
    return life.strategy.guard


def base(life: Life, batch: Batch) -> torch.Tensor:
    """Return what the model says by itself, without its guard."""
    with torch.inference_mode():
        return life.setting.objective.outputs(life.model, batch)


@functools.cache
def _learned(source: Source, passes: int, learner: str) -> State:
    life = _begin(source, "none", passes, learner)
    experience = life.ledger.admit(Experience("all", (), source.train_ids))
    life.strategy.learn(experience, life.ledger.door(life.strategy.access, experience.sample_ids))
    return life.strategy.learner.state_dict()


def _begin(source: Source, unlearner: str, passes: int, learner: str, **options: Any) -> Life:
    objective = CausalLM.for_data(Config(), source, None, "cpu")

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            sizes = tiny_llama.Config(width=16, inner=16, depth=3, heads=2)
            return FlatModel(tiny_llama.build(sizes, (2, 64), objective.num_outputs))

    training = Training(epochs=passes, lr=0.01, batch_size=16, optimizer="adam")
    setting = Setting(Key(0), make_model, objective, training, (), len(source))
    config = parse(StrategyConfig, {"learner": learner, "unlearner": {"name": unlearner, **options}})
    strategy = make_strategy(config, setting, "it")
    assert isinstance(strategy, Composed)
    return Life(source, setting, strategy, Ledger(source))


def slope(life: Life, value: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, list(life.model.network.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


def three_people(cache: Path) -> Source:
    """Return a corpus of three people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(cache))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))
