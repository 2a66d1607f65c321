"""Every strategy there is, found by the registry, on one short life of real digits, watched at the door.

A new learner, unlearner, guard or isolated strategy needs nothing here: it is discovered, built with its defaults (or
with the small ones in `OPTIONS`) and held to every promise in `test_strategies.py`.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_llama, tiny_llava
from lifelong.setup.build import make_strategy
from lifelong.setup.suitability import part_of
from strategies.base import Access, Door, Outcome, Setting, State, Strategy, Unlearner
from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.causal_lm import Config as CausalLMConfig
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, Network, digest
from strategies.step import step
from streams.config import parse
from streams.data import Data
from streams.events import DeletionRequest, Event
from streams.ledger import Ledger, Life
from streams.plan import Service, assemble
from streams.randomness import Key, seeded_globals
from streams.registry import class_of, entries, load
from streams.scenarios import class_incremental, online, task_incremental
from streams.schedules import explicit
from streams.source import Source
from streams.sources import instructions, people
from streams.stream import Stream

# Small sizes, so that the whole suite takes a minute. What is not named here keeps its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "replay": {"memory": 30, "batch": 8},
    "ewc": {"strength": 10.0},
    "refresh": {"temperature": 1e-6},
    "der": {"memory": 30, "batch": 8},
    "der-plus-plus": {"memory": 30, "batch": 8},
    "er-ace": {"memory": 30, "batch": 8},
    "agem": {"memory": 30, "batch": 8},
    "lora": {"rank": 4},
    "o-lora": {"rank": 4},
    "adapt-infinity": {"share": 1.0, "width": 32},
    "ccs": {"share": 1.0},
    "random-selection": {"share": 1.0},
    "score-selection": {"share": 1.0},
    "semdedup": {"share": 1.0},
    "trained-only": {"method": {"name": "finetune", "epochs": 1}},
    "frequency-replay": {"per_class": 5, "min_occurrences": 1, "high": 1.0},
    "finetune": {"epochs": 2, "batch_size": 64},
    "neggrad-plus": {"epochs": 1, "batch_size": 64},
    "gradient-ascent": {"epochs": 2, "batch_size": 64},
    "avalanche": {"retained": 0},
    "sisa": {"shards": 2, "slices": 2},
    "arcane": {"blocks": 2},
    "clpu-der": {"memory": 20, "finer": "coarsen"},
    "uncle": {"hidden": [16], "chunks": 4, "steps": 4, "floor": 2, "finer": "coarsen"},
    "pall": {"memory": 50, "finer": "coarsen", "steps": 3},
    "amnesiac-hat": {"memory": 8, "finer": "coarsen", "window": 2, "repair": "joint", "steps": 2},
    "unified-kd": {"memory": 30, "batch": 8, "projection": 8, "epochs": 1},
    "s3t": {"shards": 2, "slices": 1, "sequences": 1},
    "exssnet": {"density": 0.2},
    "ssnet": {"density": 0.2},
    "supsup": {"density": 0.2},
    "l1-sparse": {"epochs": 1, "batch_size": 64},
    "prune-first": {"epochs": 1, "method": {"name": "finetune", "epochs": 1}},
    "random-label": {"epochs": 1, "batch_size": 64, "redraw": "batch"},
    "salun": {"epochs": 1, "batch_size": 64, "order": "forget-first"},
    "scrub": {"epochs": 2, "max_epochs": 1, "rewind": 0.2, "decay_epochs": [1]},
    "unsir": {"batch_size": 16, "copies": 1, "noise_steps": 2, "per_class": 10},
    "boundary-shrink": {"epochs": 1, "limits": None},
    "boundary-expand": {"epochs": 1},
    "influence": {"iterations": 3},
    "cf-k": {"epochs": 1},
    "eu-k": {"epochs": 1, "k": 1},
    "npo": {"epochs": 1},
    "laf": {"epochs": 1, "vae_epochs": 1, "max_ratio": None},
    "concept-poisoning": {"epochs": 1, "patch": "none", "concept_samples": 3},
    "blindspot": {"proxy": {"epochs": 1}},
    "simnpo": {"epochs": 1},
    "graddiff": {"epochs": 1},
    "topr": {"epochs": 1},
    "task-vector": {"epochs": 1, "batch_size": 64},
}
# Learner plugins that an unlearner reads.
NOTES: dict[str, tuple[str, ...]] = {"amnesiac": ("update-log",)}
TOGETHER = ("ewc", "replay", "l2")
# Unlearners that are also tried on several plugins together; what they do to a learner, all others do too.
ON_BOTH = ("none", "retrain", "finetune", "gradient-ascent", "neggrad-plus", "ssd")
# Options that change what is kept or read.
VARIANTS: dict[str, dict[str, Any]] = {
    "ewc+replay+refresh+none": {
        "learner": ["ewc", {"name": "replay", "memory": 30, "batch": 8}, "refresh"],
        "unlearner": "none",
    },
    "der-plus-plus+refresh(released)+retrain": {
        "learner": [
            {"name": "der-plus-plus", "memory": 30, "batch": 8},
            {"name": "refresh", "form": "released", "delta": 1e-3},
        ],
        "unlearner": "retrain",
    },
    "er-ace+cpr+l2+finetune": {
        "learner": [{"name": "er-ace", "memory": 30, "batch": 8}, "cpr", "l2"],
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "si+agem+refresh+finetune": {
        "learner": ["si", {"name": "agem", "memory": 30, "batch": 8}, {"name": "refresh", "steps": 2}],
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "lwf+der(final)+gradient-ascent": {
        "learner": ["lwf", {"name": "der", "memory": 20, "batch": 8, "stored": "final"}],
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "online-ewc(decay)+finetune": {
        "learner": {"name": "online-ewc", "decay": 0.9},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "ewc(drop)+none": {"learner": {"name": "ewc", "strength": 10.0, "on_deletion": "drop"}, "unlearner": "none"},
    "ewc(recompute)+finetune": {
        "learner": {"name": "ewc", "strength": 10.0, "on_deletion": "recompute"},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "lwf+si+replay+finetune": {
        "learner": ["lwf", "si", {"name": "replay", "memory": 30, "batch": 8}],
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "replay(class-balanced)+none": {
        "learner": {"name": "replay", "memory": 30, "batch": 8, "policy": "class-balanced"},
        "unlearner": "none",
    },
    "importance-log+replay+ssd(stored)": {
        "learner": ["importance-log", {"name": "replay", **OPTIONS["replay"]}],
        "unlearner": {"name": "ssd", "whole": "stored", "alpha": 2.0},
    },
    "replay+ssd(memory)": {
        "learner": {"name": "replay", **OPTIONS["replay"]},
        "unlearner": {"name": "ssd", "whole": "memory", "alpha": 2.0},
    },
    "replay+salun(soft, memory)": {
        "learner": {"name": "replay", **OPTIONS["replay"]},
        "unlearner": {"name": "salun", "form": "soft", "retained": "memory", "epochs": 1},
    },
    "naive+influence(woodfisher)": {
        "learner": "naive",
        "unlearner": {"name": "influence", "form": "woodfisher", "samples": 20, "damping": 1.0},
    },
    "naive+npo(alone)": {"learner": "naive", "unlearner": {"name": "npo", "retain": "none", "epochs": 1}},
    "replay+finetune(memory)": {
        "learner": {"name": "replay", **OPTIONS["replay"]},
        "unlearner": {"name": "finetune", **OPTIONS["finetune"], "retained": "memory"},
    },
    "adapt-infinity(lite)+replay+retrain": {
        "learner": [
            {"name": "adapt-infinity", "share": 0.6, "width": 32, "pool": 60, "readmit": True},
            {"name": "replay", "memory": 30, "batch": 8},
        ],
        "unlearner": "retrain",
    },
    "adapt-infinity(lite)+ewc+finetune": {
        "learner": [
            {
                "name": "adapt-infinity",
                "share": 0.6,
                "projection": "tensor-sketch",
                "pool": 60,
                "redundancy": "gradient",
            },
            "ewc",
        ],
        "unlearner": {"name": "trained-only", "method": {"name": "finetune", "epochs": 1}},
    },
    "exssnet(none)": {"isolated": {"name": "exssnet", "density": 0.2, "repair": "none"}},
    "exssnet(private)": {"isolated": {"name": "exssnet", "density": 0.2, "keep": "private"}},
    "ssnet(kkt,none)": {
        "isolated": {"name": "ssnet", "density": 0.2, "kkt": "best", "repair": "none", "erase": False},
    },
    "supsup(kkt)": {"isolated": {"name": "supsup", "density": 0.2, "kkt": "all", "inference": "binary"}},
    "avalanche(replay)+retrain": {
        "learner": {
            "name": "avalanche",
            "plugins": [{"plugin": "avalanche.training.plugins.ReplayPlugin", "options": {"mem_size": 30}}],
            "retained": 30,
        },
        "unlearner": "retrain",
    },
}


# Unlearners that work on text alone, with small sizes.
TEXT_ONLY: dict[str, dict[str, Any]] = {
    "idk": {"epochs": 1},
    "dpo": {"epochs": 1, "lr": 1e-3},
    "flat": {"epochs": 1, "lr": 1e-3},
    "ihl": {"epochs": 1},
    "rmu": {"epochs": 1, "block": 0},
    "teacher-revert": {"epochs": 1},
    "loku": {"epochs": 1, "rank": 4, "fisher_batch": 16},
    "lat": {"epochs": 1, "attack_steps": 2, "defence_steps": 1},
    "whp": {"epochs": 1, "reinforce": {"epochs": 1}},
}
# Learners that work on text alone, with small sizes.
TEXT_LEARNERS: dict[str, dict[str, Any]] = {
    "cpt-kl": {},
    "instruction-tuning": {"memory": 10},
    "mix-cpt": {
        "memory": 10,
        "instructions": 0.3,
        "preferences": 0.2,
        "preference_part": 0.5,
        "align_least": 2,
        "sft_epochs": 1,
    },
}
# Guards, all of which work on text alone, likewise.
GUARDS_TEXT: dict[str, dict[str, Any]] = {
    "o3": {"epochs": 1, "rank": 4, "encoder": {"rank": 4}},
    "in-context": {},
}
# What else is tried on text.
ON_TEXT: dict[str, dict[str, Any]] = {
    "replay+retrain": {"learner": {"name": "replay", "memory": 10, "batch": 4}, "unlearner": "retrain"},
    "ewc+replay+l2+refresh+neggrad-plus": {
        "learner": [{"name": "ewc", "fisher": "batch"}, {"name": "replay", "memory": 10, "batch": 4}, "l2", "refresh"],
        "unlearner": {"name": "neggrad-plus", "epochs": 1},
    },
    "si+online-ewc+gradient-ascent": {
        "learner": ["si", {"name": "online-ewc", "fisher": "batch"}],
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "agem+finetune": {
        "learner": {"name": "agem", "memory": 10, "batch": 4},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "first-reference+npo(kl,first)": {
        "learner": "first-reference",
        "unlearner": {"name": "npo", "epochs": 1, "retain": "kl", "reference": "first"},
    },
    "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2, "aggregate": "mean"}},
    "naive+graddiff(none)": {"learner": "naive", "unlearner": {"name": "graddiff", "epochs": 1, "retain": "none"}},
    "independent": {"isolated": "independent"},
    "o-lora+replay+random-label": {
        "learner": [{"name": "o-lora", "rank": 4}, {"name": "replay", "memory": 10, "batch": 4}],
        "unlearner": {"name": "random-label", "epochs": 1, "batch_size": 16, "redraw": "epoch"},
    },
    "o3(resume, frozen encoder)": {
        "guard": {
            "name": "o3",
            "epochs": 1,
            "rank": 4,
            "adapters": "resume",
            "gate": "hard",
            "gamma": 0.0,
            "encoder": {"rank": 4, "epochs": 0},
        }
    },
    "in-context(all)": {"guard": {"name": "in-context", "applies": "all"}},
    "in-context(refusal)": {"guard": {"name": "in-context", "form": "refusal"}},
    "replay+ewc+o3": {
        "learner": [{"name": "replay", "memory": 10, "batch": 4}, {"name": "ewc", "fisher": "batch"}],
        "guard": {"name": "o3", **GUARDS_TEXT["o3"]},
    },
    "o-lora+retrain+o3": {
        "learner": {"name": "o-lora", "rank": 4},
        "unlearner": "retrain",
        "guard": {"name": "o3", **GUARDS_TEXT["o3"]},
    },
    "lora+gradient-ascent+in-context": {
        "learner": {"name": "lora", "rank": 4},
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
        "guard": "in-context",
    },
    "adapt-infinity+retrain": {
        "learner": {
            "name": "adapt-infinity",
            "share": 0.7,
            "width": 32,
            "selectors": ["perplexity", "grand", "context-grounding"],
        },
        "unlearner": "retrain",
    },
    "semdedup+none": {"learner": {"name": "semdedup", "share": 0.7}, "unlearner": "none"},
}


# What is tried on text with pictures.
ON_PICTURES: dict[str, dict[str, Any]] = {
    "naive+npo": {"learner": "naive", "unlearner": {"name": "npo", "epochs": 1}},
    "cumulative+none": {"learner": "cumulative", "unlearner": "none"},
    "ewc+replay+retrain": {
        "learner": [{"name": "ewc", "fisher": "batch"}, {"name": "replay", "memory": 10, "batch": 4}],
        "unlearner": "retrain",
    },
    "replay+gradient-ascent": {
        "learner": {"name": "replay", "memory": 10, "batch": 4},
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "replay+idk": {
        "learner": {"name": "replay", "memory": 10, "batch": 4},
        "unlearner": {"name": "idk", "epochs": 1},
    },
}


@dataclass(frozen=True)
class Candidate:
    """One way to build a strategy; `own` if it is of a file outside the project."""

    name: str
    config: StrategyConfig
    own: bool = False

    @property
    def own_learner(self) -> str | None:
        """The name of a learner that brings its own loop."""
        return "avalanche" if self.name.startswith("avalanche") else None

    @property
    def unlearner(self) -> type[Unlearner] | None:
        """The class of its unlearner, with what it declares; None for isolated strategies."""
        if self.config.isolated is not None:
            return None
        return class_of(load("unlearners", self.config.unlearner.name), Unlearner)

    @property
    def forgets(self) -> bool:
        """Whether it is a learner together with an unlearner that does something."""
        return self.config.isolated is None and self.config.unlearner.name != "none"

    @property
    def supports(self) -> frozenset[str]:
        """What all of its parts declare that a model may predict."""
        if self.config.isolated is not None:
            return part_of("isolated", load("isolated", self.config.isolated.name)).supports
        learners = [part_of("learners", load("learners", p.name)).supports for p in self.config.learner]
        unlearner = part_of("unlearners", load("unlearners", self.config.unlearner.name)).supports
        return unlearner.intersection(*learners)

    def lives(self, form: str) -> bool:
        """Whether it can live in a world of that form."""
        kind = "tokens" if form in ("text", "pictures") else "numbers" if form.startswith("regression") else "classes"
        return kind in self.supports

    def place(self, name: str) -> str:
        """The world of that name in which it can live."""
        if not self.lives(name):
            name = "regression" if name == "class-incremental" else f"{name} of regression"
        return f"{name} by class" if self.unlearner is not None and self.unlearner.whole_classes else name


def candidates() -> list[Candidate]:
    """Every learner with retrain and with none, every unlearner on one learner or two, every isolated strategy.

    What works on text alone is in `text_candidates`.
    """

    def named(name: str) -> dict[str, Any]:
        return {"name": name, **OPTIONS.get(name, {})}

    found: dict[str, dict[str, Any]] = {}
    for learner in sorted(set(entries("learners")) - set(TEXT_LEARNERS)):
        for unlearner in ("retrain", "none"):
            found[f"{learner}+{unlearner}"] = {"learner": named(learner), "unlearner": unlearner}
    for unlearner in sorted(set(entries("unlearners")) - set(TEXT_ONLY)):
        for plugins in (("replay",), TOGETHER) if unlearner in ON_BOTH else (("replay",),):
            learners = (*NOTES.get(unlearner, ()), *plugins)
            parts = {"learner": [named(n) for n in learners], "unlearner": named(unlearner)}
            found[f"{'+'.join(learners)}+{unlearner}"] = parts
    for isolated in sorted(entries("isolated")):
        found[isolated] = {"isolated": named(isolated)}
    found |= VARIANTS
    return [Candidate(name, parse(StrategyConfig, values)) for name, values in found.items()]


def text_candidates() -> list[Candidate]:
    """Every learner and unlearner of text, and a few others that run on it unchanged."""
    found: dict[str, dict[str, Any]] = dict(ON_TEXT)
    for name, options in TEXT_LEARNERS.items():
        for unlearner in ("retrain", "none"):
            found[f"{name}+{unlearner}"] = {"learner": {"name": name, **options}, "unlearner": unlearner}
    for unlearner, options in TEXT_ONLY.items():
        learner = {"name": "replay", "memory": 10, "batch": 4}
        if unlearner == "teacher-revert":  # it goes back to what this one keeps
            learner = {"name": "mix-cpt", **TEXT_LEARNERS["mix-cpt"]}
        found[f"{learner['name']}+{unlearner}"] = {"learner": learner, "unlearner": {"name": unlearner, **options}}
    for guard, options in GUARDS_TEXT.items():
        found[f"naive+{guard}"] = {"learner": "naive", "guard": {"name": guard, **options}}
    return [Candidate(name, parse(StrategyConfig, values)) for name, values in found.items()]


def picture_candidates() -> list[Candidate]:
    """A few strategies on text with pictures."""
    return [Candidate(name, parse(StrategyConfig, values)) for name, values in ON_PICTURES.items()]


def learning_halves() -> list[tuple[Candidate, str]]:
    """Everything that learns, once, and a world for it: learners without an unlearner, and isolated strategies."""
    learners = [f"{n}+none" for n in entries("learners")]
    names = {*learners, *entries("isolated")}
    found = [(c, "class-incremental") for c in candidates()] + [(c, "text") for c in text_candidates()]
    of_text = {*(f"{n}+none" for n in TEXT_LEARNERS)}
    return [(c, place) for c, place in found if c.name in names and (c.name in of_text) == (place == "text")]


@dataclass(frozen=True, eq=False)
class World:
    """A stream and what strategies are built in."""

    name: str
    stream: Stream
    setting: Setting

    def build(self, candidate: Candidate, seed: int = 0) -> Strategy:
        noisy = self.name.startswith("task-incremental")
        setting = replace(self.setting, key=Key(seed), make_model=lambda: _model(self.setting.objective, seed, noisy))
        return make_strategy(candidate.config, setting, candidate.name)

    def ledger(self, declared: Access | None = None) -> SpyLedger:
        return SpyLedger(self.stream.source, self.stream.task_of, declared)

    def altered(self, ids: np.ndarray) -> World:
        """The same life of the same ids, but what these rows hold is something else altogether."""
        source, draw = self.stream.source, np.random.default_rng(7)
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
        return replace(self, stream=replace(self.stream, source=replace(source, x=x, y=y, images=images)))


class SpyLedger(Ledger):
    """A ledger whose doors write down everything they lend."""

    def __init__(self, source: Source, task_of: np.ndarray | None, declared: Access | None = None) -> None:
        super().__init__(source, task_of)
        self.declared = declared
        self.doors: list[SpyDoor] = []

    def door(self, access: Access, own: np.ndarray, to_forget: np.ndarray | None = None) -> SpyDoor:
        self.doors.append(SpyDoor(self, self.declared or access, own, to_forget))
        return self.doors[-1]


class SpyDoor(Door):
    """A door that remembers what was lent, and in which state each sample was at that moment."""

    def __init__(self, ledger: SpyLedger, access: Access, own: np.ndarray, to_forget: np.ndarray | None) -> None:
        super().__init__(ledger, access, own, to_forget)
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


@dataclass(frozen=True, eq=False)
class Moment:
    """What is known right after one event."""

    event: Event
    outcome: Outcome
    state: State
    digest: str
    deleted: np.ndarray
    held: dict[str, np.ndarray]
    stored: np.ndarray
    door: SpyDoor | None
    globals_kept: bool


@dataclass(eq=False)
class Lived:
    """A strategy's life, moment by moment."""

    strategy: Strategy
    ledger: SpyLedger
    start: str
    moments: list[Moment] = field(default_factory=list)

    @property
    def digests(self) -> list[str]:
        return [m.digest for m in self.moments]

    def requests(self) -> Iterator[tuple[int, Moment]]:
        yield from ((i, m) for i, m in enumerate(self.moments) if isinstance(m.event, DeletionRequest))


def generators() -> tuple[object, ...]:
    """The state of every global generator."""
    _, words, position, *_ = np.random.get_state()
    return random.getstate(), words.tobytes(), position, torch.random.get_rng_state().numpy().tobytes()


def go_on(life: Lived, events: Iterable[Event]) -> Lived:
    """Let events happen and note down everything."""
    for event in events:
        before, doors = generators(), len(life.ledger.doors)
        outcome = step(life.strategy, event, life.ledger).outcome
        deleted = life.ledger.deleted_ids
        state = life.strategy.state_dict()
        held, stored = life.strategy.holds(deleted), life.strategy.stored_ids()
        kept = generators() == before
        door = life.ledger.doors[-1] if len(life.ledger.doors) > doors else None
        life.moments.append(Moment(event, outcome, state, digest(state), deleted, held, stored, door, kept))
    return life


def begin(world: World, candidate: Candidate, declared: Access | None = None, seed: int = 0) -> Lived:
    strategy = world.build(candidate, seed)
    return Lived(strategy, world.ledger(declared), digest(strategy.state_dict()))


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


def _model(objective: Objective, seed: int, noisy: bool) -> FlatModel:
    with seeded_globals(Key(seed) / "init"):
        if isinstance(objective, CausalLM) and objective.text is not None and objective.text.image_tokens:
            small = tiny_llava.Config(
                width=8, inner=8, depth=1, heads=2, vision_width=8, vision_inner=8, vision_heads=2, patch=8
            )
            return FlatModel(tiny_llava.build(small, (2, 64, 2, 1, 16, 16), objective.num_outputs))
        if isinstance(objective, CausalLM):
            sizes = tiny_llama.Config(width=8, inner=8, depth=1, heads=2)
            return FlatModel(tiny_llama.build(sizes, (2, 64), objective.num_outputs))
        layers = [nn.Linear(64, 12), nn.ReLU(), *([Noisy(12)] if noisy else [])]
        return FlatModel(Network(nn.Sequential(*layers), nn.Linear(12, objective.num_outputs)))


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


def _world_of_text() -> World:
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
    objective = CausalLM.for_data(CausalLMConfig(loss_on="all"), source, None, "cpu")
    training = Training(epochs=1, lr=0.05, batch_size=16)
    setting = Setting(Key(0), lambda: _model(objective, 0, False), objective, training, stream.units, len(source))
    return World("text", stream, setting)


def _world_of_pictures() -> World:
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
    objective = CausalLM.for_data(CausalLMConfig(), source, None, "cpu")
    training = Training(epochs=1, lr=0.05, batch_size=16)
    setting = Setting(Key(0), lambda: _model(objective, 0, False), objective, training, stream.units, len(source))
    return World("pictures", stream, setting)


def make_world(full_name: str) -> World:
    if full_name == "pictures":
        return _world_of_pictures()
    if full_name == "text":
        return _world_of_text()
    name = full_name.removesuffix(" by class")
    by_class = name != full_name
    source, scenario, requests = _source(), class_incremental, CLASS_REQUESTS if by_class else REQUESTS
    objective: Objective = Classification(10)
    if name in ("task-incremental", "everything-task-aware"):
        scenario = task_incremental
        objective = Classification(10, tuple((2 * t, 2 * t + 1) for t in range(5)))
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
    stream = assemble(plan, scheduled, Service(wait_for=2 if name.startswith("lazy") else 1), Key(0) / "requests")
    training = Training(epochs=2, lr=0.05, batch_size=40)
    setting = Setting(Key(0), lambda: _model(objective, 0, False), objective, training, stream.units, len(source))
    return World(full_name, stream, setting)


_WORLDS: dict[str, World] = {}
_LIVES: dict[tuple[str, str], Lived] = {}
FORMS = ("class-incremental", "task-incremental", "regression")


def world_of(name: str) -> World:
    if name not in _WORLDS:
        _WORLDS[name] = make_world(name)
    return _WORLDS[name]


def life_of(world: World, candidate: Candidate) -> Lived:
    """The uninterrupted life, lived once and shared by all tests."""
    key = (world.name, candidate.name)
    if key not in _LIVES:
        _LIVES[key] = go_on(begin(world, candidate), world.stream.events)
    return _LIVES[key]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--own", metavar="KIND=FILE", help="test that learner, unlearner, guard or isolated strategy instead"
    )


def own_candidates(own: str) -> list[Candidate]:
    """What is to be tested of a file of one's own: a learner with two unlearners, an unlearner or a guard on replay."""
    kind, _, file = own.partition("=")
    strategies: dict[str, list[dict[str, Any]]] = {
        "learners": [{"learner": file, "unlearner": "retrain"}, {"learner": file, "unlearner": "none"}],
        "unlearners": [{"learner": "replay", "unlearner": file}],
        "guards": [{"learner": "replay", "guard": file}],
        "isolated": [{"isolated": file}],
    }
    if kind not in strategies:
        raise pytest.UsageError(f"--own {own}: write KIND=FILE, where KIND is one of {', '.join(strategies)}.")
    return [Candidate(" ".join(s.values()), parse(StrategyConfig, s), own=True) for s in strategies[kind]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = metafunc.config.getoption("--own", None)
    if "half" in metafunc.fixturenames:
        halves = learning_halves()
        if own is not None:
            halves = [(c, "class-incremental") for c in own_candidates(own) if not c.forgets]
        metafunc.parametrize(("half", "place"), halves, ids=[c.name for c, _ in halves])
    if "candidate" not in metafunc.fixturenames:
        return
    every = candidates() if own is None else own_candidates(own)
    if "form" in metafunc.fixturenames:
        pairs = [(c, f) for f in FORMS for c in every if c.lives(f)]
        if own is None:
            pairs += [(c, "text") for c in text_candidates()]
            pairs += [(c, "pictures") for c in picture_candidates()]
        metafunc.parametrize(("candidate", "form"), pairs, ids=[f"{f}-{c.name}" for c, f in pairs])
    else:
        metafunc.parametrize("candidate", every, ids=[c.name for c in every])


@pytest.fixture
def world(form: str, candidate: Candidate) -> World:
    return world_of(candidate.place(form))


@pytest.fixture
def life(world: World, candidate: Candidate) -> Lived:
    return life_of(world, candidate)


@dataclass(frozen=True)
class Kit:
    """The functions above, for test modules (they cannot import from here)."""

    world = staticmethod(world_of)
    life = staticmethod(life_of)
    begin = staticmethod(begin)
    go_on = staticmethod(go_on)
    generators = staticmethod(generators)
    candidates = staticmethod(candidates)
    Lived = Lived
    full = Access(forget_set=True, retained="full")
    LEARNED = int(Life.LEARNED)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
