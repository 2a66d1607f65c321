"""What is tested: every strategy that the registry finds, in the small size that its class declares.

A new learner, unlearner or isolated strategy needs nothing here. What tests have to know about it, its class says (see
`strategies.base`); what it does not say has defaults.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from contract.combinations import ON_BOTH, ON_PICTURES, ON_TEXT, SAMPLE, TOGETHER, VARIANTS
from contract.worlds import world_of

from lifelong.config.run import StrategyConfig
from strategies.base import Learner, Plugin, Strategy, Unlearner
from streams.config import parse
from streams.registry import class_of, entries, load

FORMS = ("class-incremental", "task-incremental", "regression")
REPLAY_OF_TEXT = {"name": "replay", "memory": 10, "batch": 4}
_TEXT_ALONE = {
    "learners": {"cpt-kl", "instruction-tuning", "mix-cpt"},
    "unlearners": {"idk", "dpo", "flat", "ihl", "rmu", "teacher-revert", "loku", "lat", "whp"},
    "isolated": {"o3", "in-context"},
}
_CLASSES_ALONE = {
    "learners": {"avalanche", "adapt-infinity", "ccs", "score-selection"},
    "unlearners": set(),
    "isolated": {"arcane", "clpu-der", "pall", "uncle", "amnesiac-hat", "unified-kd"},
}


@functools.cache
def class_named(kind: str, name: str) -> type:
    """The class that holds a strategy or a part of one."""
    module = load(kind, name)
    if kind == "learners":
        return class_of(module, Learner if _has_own_loop(module) else Plugin)
    return class_of(module, Strategy if kind == "isolated" else Unlearner)


def _has_own_loop(module: ModuleType) -> bool:
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    return any(issubclass(v, Learner) for v in own)


@functools.cache
def supports(kind: str, name: str) -> frozenset[str]:
    """What models it works on may predict: classes, numbers, tokens. The one place that knows how this is declared."""
    if name in _TEXT_ALONE[kind]:
        return frozenset({"tokens"})
    if name in _CLASSES_ALONE[kind]:
        return frozenset({"classes"})
    part = class_named(kind, name)
    targets = part.targets if issubclass(part, Unlearner) else "any"
    return frozenset({"classes", "numbers"} if targets == "any" else {targets})


@dataclass(frozen=True)
class Candidate:
    """One way to build a strategy.

    Attributes:
        name: for test ids.
        config: what the strategy is made of.
        own: whether it is of a file outside the project, which may have declared nothing.
        sampled: whether it repeats what others show, but for some options: in forms other than its home at night alone.
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
        return [*(("learners", p.name) for p in config.learner), ("unlearners", config.unlearner.name)]

    @functools.cached_property
    def supports(self) -> frozenset[str]:
        """What it may be asked to predict: what all of its parts can serve."""
        return frozenset.intersection(*(supports(*part) for part in self.parts))

    def lives(self, form: str) -> bool:
        """Whether it can live in a world of that form."""
        return ("numbers" if form.startswith("regression") else "classes") in self.supports

    @property
    def home(self) -> str:
        """The form of the life that it lives in any case."""
        return "class-incremental" if self.lives("class-incremental") else "regression"

    def place(self, name: str) -> str:
        """The world of that name in which it can live."""
        if name in ("text", "pictures"):
            return name
        if not self.lives(name):
            name = "regression" if name == "class-incremental" else f"{name} of regression"
        kind, unlearner = self.parts[-1]
        whole = kind == "unlearners" and class_named(kind, unlearner).whole_classes
        return f"{name} by class" if whole else name


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


def _entries(kind: str, of_text: bool) -> list[str]:
    """Names of one kind, either those that work on text alone or the others."""
    return [name for name in sorted(entries(kind)) if (supports(kind, name) == {"tokens"}) == of_text]


@functools.cache
def candidates() -> list[Candidate]:
    """Every learner with retrain and with none, every unlearner on one learner or two, every isolated strategy.

    What works on text alone is in `text_candidates`.
    """
    found: dict[str, dict[str, Any]] = {}
    again: dict[str, dict[str, Any]] = {}
    for learner in _entries("learners", of_text=False):
        again[f"{learner}+retrain"] = {"learner": _small("learners", learner), "unlearner": "retrain"}
        found[f"{learner}+none"] = {"learner": _small("learners", learner), "unlearner": "none"}
    for unlearner in _entries("unlearners", of_text=False):
        for plugins in (("replay",), TOGETHER) if unlearner in ON_BOTH else (("replay",),):
            learners = [*_needed(unlearner, "class-incremental"), *(_small("learners", name) for name in plugins)]
            name = "+".join([*(part["name"] for part in learners), unlearner])
            found[name] = {"learner": learners, "unlearner": _small("unlearners", unlearner)}
    for isolated in _entries("isolated", of_text=False):
        found[isolated] = {"isolated": _small("isolated", isolated)}
    again = {name: parts for name, parts in again.items() if name not in found}  # some are an unlearner's, too
    return _named(again, sampled=True) + _named(found) + _named(VARIANTS, sampled=True)


@functools.cache
def text_candidates() -> list[Candidate]:
    """Every learner and unlearner of text, and a few others that run on it unchanged."""
    found: dict[str, dict[str, Any]] = dict(ON_TEXT)
    for learner in _entries("learners", of_text=True):
        for unlearner in ("retrain", "none"):
            found[f"{learner}+{unlearner}"] = {"learner": _small("learners", learner), "unlearner": unlearner}
    for unlearner in _entries("unlearners", of_text=True):
        learners = _needed(unlearner, "text") or [REPLAY_OF_TEXT]
        name = "+".join([*(part["name"] for part in learners), unlearner])
        found[name] = {"learner": learners, "unlearner": _small("unlearners", unlearner)}
    for isolated in _entries("isolated", of_text=True):
        found[isolated] = {"isolated": _small("isolated", isolated)}
    return _named(found)


@functools.cache
def picture_candidates() -> list[Candidate]:
    """A few strategies on text with pictures."""
    return _named(ON_PICTURES)


def own_candidates(own: str) -> list[Candidate]:
    """What is to be tested of a file outside the project: a learner with two unlearners, an unlearner on replay.

    Args:
        own: kind and file, as in ``unlearners=/home/me/mine.py``.
    """
    kind, _, file = own.partition("=")
    beside: dict[str, list[dict[str, Any]]] = {
        "learners": [{"unlearner": "retrain"}, {"unlearner": "none"}],
        "unlearners": [{"learner": "replay"}],
        "isolated": [{}],
    }
    if kind not in beside:
        raise pytest.UsageError(f"--own {own}: write KIND=FILE, where KIND is one of {', '.join(beside)}.")
    key, part = {"learners": "learner", "unlearners": "unlearner", "isolated": "isolated"}[kind], _small(kind, file)
    return [
        Candidate("+".join([file, *other.values()]), parse(StrategyConfig, {key: part, **other}), own=True)
        for other in beside[kind]
    ]
