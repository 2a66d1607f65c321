"""What is tested: every strategy that the registry finds, in the small size that its class declares.

A new learner, unlearner, guard or isolated strategy needs nothing here. What tests have to know about it, its class
says (see `strategies.base`); what it does not say has defaults.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import pytest
from contract.combinations import ON_BOTH, ON_IMAGES, ON_PICTURES, ON_TEXT, SAMPLE, TOGETHER, VARIANTS
from contract.worlds import CONVOLVED, OF_EXPERTS, world_of

from lifelong.config.run import StrategyConfig
from lifelong.setup.suitability import Part, part_of
from strategies.base import Unlearner
from streams.config import parse
from streams.registry import entries, load

FORMS = ("class-incremental", "task-incremental", "regression")
OTHER_FORMS = ("text", "pictures", "images")
"""Worlds for what they are about, which few others live in."""
REPLAY_OF_TEXT = {"name": "replay", "memory": 10, "batch": 4}


@functools.cache
def class_named(kind: str, name: str) -> type[Part]:
    """The class that holds a strategy or a part of one."""
    return part_of(kind, load(kind, name))


@dataclass(frozen=True)
class Candidate:
    """One way to build a strategy.

    Attributes:
        name: for test ids.
        config: what the strategy is made of.
        own: whether it is of a file outside the project, which may have declared nothing.
        sampled: whether it repeats what others show, but for some options: tried at night alone.
    """

    name: str
    config: StrategyConfig
    own: bool = False
    sampled: bool = False

    @functools.cached_property
    def parts(self) -> list[tuple[str, str]]:
        """Kind and name of everything that it is made of."""
        config = self.config
        if config.isolated is not None:
            return [("isolated", config.isolated.name)]
        guard = [] if config.guard is None else [("guards", config.guard.name)]
        return [*(("learners", p.name) for p in config.learner), *guard, ("unlearners", config.unlearner.name)]

    @property
    def forgets(self) -> bool:
        """Whether it is a learner together with an unlearner that does something."""
        return self.parts[-1][0] == "unlearners" and self.parts[-1][1] != "none"

    @functools.cached_property
    def supports(self) -> frozenset[str]:
        """What it may be asked to predict: what all of its parts can serve."""
        return frozenset.intersection(*(class_named(*part).supports for part in self.parts))

    def lives(self, form: str) -> bool:
        """Whether it can live in a world of that form."""
        kinds = {"text": "tokens", "pictures": "tokens", "images": "images"}
        kind = kinds.get(form, "numbers" if form.startswith("regression") else "classes")
        return kind in self.supports

    @property
    def keeps(self) -> bool:
        """Whether no other candidate keeps the same: of a learner's state it is the learner that decides."""
        return self.own or not self.forgets or self.name in VARIANTS

    @property
    def needs_experts(self) -> bool:
        """Whether its model is a mixture of experts."""
        kind, name = self.parts[-1]
        return kind == "unlearners" and class_named(kind, name).needs_experts

    @property
    def in_all_forms(self) -> bool:
        """Whether it is tried in every form by default, not at home alone: all that is isolated, some of the others."""
        return self.own or self.config.isolated is not None or self.name in SAMPLE

    def in_depth(self, form: str) -> bool:
        """Whether what takes long is tried in that form by default, too, and not at night alone."""
        return self.in_all_forms and form in (self.home, *OTHER_FORMS)

    @property
    def home(self) -> str:
        """The form of the life that it lives in any case."""
        return "class-incremental" if self.lives("class-incremental") else "regression"

    def place(self, name: str) -> str:
        """The world of that name in which it can live."""
        if name in OTHER_FORMS:
            return name + (OF_EXPERTS if self.needs_experts else "")
        if not self.lives(name):
            name = "regression" if name == "class-incremental" else f"{name} of regression"
        kind, unlearner = self.parts[-1]
        if kind != "unlearners":
            return name
        part = class_named(kind, unlearner)
        return name + (" by class" if part.whole_classes else "") + (CONVOLVED if part.needs_convolutions else "")


def _small(kind: str, name: str) -> dict[str, Any]:
    """Name and options of a part in its small size."""
    return {"name": name, **class_named(kind, name).test_options}


def _needed(unlearner: str, world: str) -> list[dict[str, Any]]:
    """The learner plugins that an unlearner reads, in their small sizes."""
    part = class_named("unlearners", unlearner)
    if part.needs_plugins is Unlearner.needs_plugins:
        return []
    config = parse(load("unlearners", unlearner).Config, dict(part.test_options))
    plugins = part(config, world_of(world).setting).needs_plugins
    return [_small("learners", plugin) for plugin in plugins]


def _named(values: dict[str, dict[str, Any]], sampled: bool = False) -> list[Candidate]:
    return [
        Candidate(name, parse(StrategyConfig, v), sampled=sampled and name not in SAMPLE) for name, v in values.items()
    ]


def _entries(kind: str, only: str | None = None) -> list[str]:
    """Names of one kind: those that work on `only` (tokens, images) alone, or the others."""
    alone = {frozenset({"tokens"}): "tokens", frozenset({"images"}): "images"}
    return [name for name in sorted(entries(kind)) if alone.get(class_named(kind, name).supports) == only]


@functools.cache
def candidates() -> list[Candidate]:
    """Every learner with retrain and with none, every unlearner on one learner or two, every isolated strategy.

    What works on text or images alone is in `text_candidates` and `image_candidates`.
    """
    found: dict[str, dict[str, Any]] = {}
    again: dict[str, dict[str, Any]] = {}
    for learner in _entries("learners"):
        again[f"{learner}+retrain"] = {"learner": _small("learners", learner), "unlearner": "retrain"}
        found[f"{learner}+none"] = {"learner": _small("learners", learner), "unlearner": "none"}
    for unlearner in _entries("unlearners"):
        for plugins in (("replay",), TOGETHER) if unlearner in ON_BOTH else (("replay",),):
            learners = [*_needed(unlearner, "class-incremental"), *(_small("learners", name) for name in plugins)]
            name = "+".join([*(part["name"] for part in learners), unlearner])
            found[name] = {"learner": learners, "unlearner": _small("unlearners", unlearner)}
    for isolated in _entries("isolated"):
        found[isolated] = {"isolated": _small("isolated", isolated)}
    for guard in _entries("guards"):
        found[f"replay+{guard}"] = {"learner": _small("learners", "replay"), "guard": _small("guards", guard)}
    again = {name: parts for name, parts in again.items() if name not in found}  # some are an unlearner's, too
    return _named(again, sampled=True) + _named(found) + _named(VARIANTS, sampled=True)


@functools.cache
def text_candidates() -> list[Candidate]:
    """Every learner and unlearner of text, and a few others that run on it unchanged (at night)."""
    found: dict[str, dict[str, Any]] = {}
    for learner in _entries("learners", "tokens"):
        for unlearner in ("retrain", "none"):
            found[f"{learner}+{unlearner}"] = {"learner": _small("learners", learner), "unlearner": unlearner}
    for unlearner in _entries("unlearners", "tokens"):
        learners = _needed(unlearner, "text") or [REPLAY_OF_TEXT]
        name = "+".join([*(part["name"] for part in learners), unlearner])
        found[name] = {"learner": learners, "unlearner": _small("unlearners", unlearner)}
    for isolated in _entries("isolated", "tokens"):
        found[isolated] = {"isolated": _small("isolated", isolated)}
    for guard in _entries("guards", "tokens"):
        found[f"naive+{guard}"] = {"learner": "naive", "guard": _small("guards", guard)}
    others = {name: parts for name, parts in ON_TEXT.items() if name not in found}
    return _named(others, sampled=True) + _named(found)


@functools.cache
def image_candidates() -> list[Candidate]:
    """Every learner and unlearner of image generators, and a few others that run on them unchanged (at night)."""
    found: dict[str, dict[str, Any]] = {}
    for learner in _entries("learners", "images"):
        for unlearner in ("retrain", "none"):
            found[f"{learner}+{unlearner}"] = {"learner": _small("learners", learner), "unlearner": unlearner}
    for unlearner in _entries("unlearners", "images"):
        learners = [*_needed(unlearner, "images"), _small("learners", "replay")]
        name = "+".join([*(part["name"] for part in learners), unlearner])
        found[name] = {"learner": learners, "unlearner": _small("unlearners", unlearner)}
    for isolated in _entries("isolated", "images"):
        found[isolated] = {"isolated": _small("isolated", isolated)}
    others = {name: parts for name, parts in ON_IMAGES.items() if name not in found}
    return _named(others, sampled=True) + _named(found)


def everywhere() -> list[tuple[Candidate, str]]:
    """All that is tested, each with the form of the life that it lives in any case."""
    return [
        *((c, c.home) for c in candidates()),
        *((c, "text") for c in text_candidates()),
        *((c, "images") for c in image_candidates()),
    ]


@functools.cache
def learning_halves() -> list[tuple[Candidate, str]]:
    """Everything that learns, once, and a world for it: learners without an unlearner, and isolated strategies."""
    names = {*(f"{name}+none" for name in entries("learners")), *entries("isolated")}
    halves = [(c, "class-incremental") for c in candidates()]
    halves += [(c, "text") for c in text_candidates() if c.supports == {"tokens"}]
    halves += [(c, "images") for c in image_candidates() if c.supports == {"images"}]
    return [(c, place) for c, place in halves if c.name in names]


@functools.cache
def picture_candidates() -> list[Candidate]:
    """A few strategies on text with pictures: the first by default, the others at night."""
    return [replace(c, sampled=bool(i)) for i, c in enumerate(_named(ON_PICTURES))]


def own_candidates(own: str) -> list[Candidate]:
    """What is to be tested of a file of one's own: a learner with two unlearners, an unlearner or a guard on replay.

    Args:
        own: kind and file, as in ``unlearners=/home/me/mine.py``.
    """
    kind, _, file = own.partition("=")
    beside: dict[str, list[dict[str, Any]]] = {
        "learners": [{"unlearner": "retrain"}, {"unlearner": "none"}],
        "unlearners": [{"learner": "replay"}],
        "guards": [{"learner": "replay"}],
        "isolated": [{}],
    }
    if kind not in beside:
        raise pytest.UsageError(f"--own {own}: write KIND=FILE, where KIND is one of {', '.join(beside)}.")
    keys = {"learners": "learner", "unlearners": "unlearner", "guards": "guard", "isolated": "isolated"}
    key, part = keys[kind], _small(kind, file)
    return [
        Candidate("+".join([file, *other.values()]), parse(StrategyConfig, {key: part, **other}), own=True)
        for other in beside[kind]
    ]
