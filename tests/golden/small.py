"""Small things that the expressions in `functions/` are about: a source of 16 samples, its plan, events, a file."""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import torch

from strategies.objectives.classification import Classification
from strategies.parts.model import FlatModel, Network
from strategies.parts.passes import Training
from streams.data import Batch, Data
from streams.events import DeletionRequest, Event, Experience, Request, Scope
from streams.plan import Plan, Scheduled, Service, assemble
from streams.randomness import Key
from streams.scenarios.class_incremental import plan_of_groups
from streams.source import Source
from streams.stream import Stream
from streams.text import Text, rows


def SOURCE(**changes: Any) -> Source:
    """Return 16 samples of 4 classes and 4 users; 3, 6, 9 and 12 are for tests, 5 and 13 are copies of 1."""
    x, classes = torch.arange(32.0).view(16, 2) / 8, np.arange(16) * 3 % 4
    x[[5, 13]] = x[1].clone()
    fields: dict[str, Any] = {
        "name": "small",
        "licence": "none",
        "x": x,
        "y": torch.from_numpy(classes.copy()),
        "class_ids": classes,
        "user_ids": np.arange(16) // 3 % 4,
        "is_test": np.isin(np.arange(16), (3, 6, 9, 12)),
        "class_names": ("cat", "class-1", "7", "dog"),
        "user_names": ("user-0", "ann", "u-12", "bob"),
        "domain_ids": np.arange(16) % 5 % 3,
        "domain_names": ("north", "south", "west"),
    }
    return Source(**(fields | changes))


def PLAN(**changes: Any) -> Plan:
    """Return the plan of three tasks: classes 0 and 2, class 1, class 3."""
    return plan_of_groups(SOURCE(**changes), [np.array([0, 2]), np.array([1]), np.array([3])])


def STREAM(scheduled: Sequence[Scheduled], seed: int = 0, plan: Plan | None = None, **service: Any) -> Stream:
    """Return the stream of the plan with a schedule."""
    return assemble(plan or PLAN(), scheduled, Service(**service), Key(seed))


def DATA(ids: Sequence[int] = (1, 4, 5, 8), **changes: Any) -> Data:
    """Return some of the samples as data."""
    source = SOURCE(**changes)
    return Data(np.array(ids), source.x, source.y, None)


def LEARN(name: str, ids: Iterable[int], units: tuple[int, ...] = (0,), **more: Any) -> Experience:
    """Return an experience."""
    return Experience(name, units, np.array([*ids], dtype=np.int64), **more)


def FORGET(
    name: str, ids: Iterable[int], barred: Iterable[int] = (), scope: Scope = "sample", keys: Any = None, **more: Any
) -> DeletionRequest:
    """Return a deletion of one request."""
    sets = (np.array([*some], dtype=np.int64) for some in (ids, barred))
    return DeletionRequest(name, (Request(scope, tuple(keys or ids), *sets, 1),), **more)


def TOLD(things: Any) -> Any:
    """Return events, a stream or a plan in lists and words."""
    if isinstance(things, Plan):
        units = [[u.name, u.classes, u.test_ids] for u in things.units]
        return [units, TOLD(things.experiences), things.task_of]
    if isinstance(things, Stream):
        return TOLD(things.events)
    return [_event(e) for e in things]


def _event(event: Event) -> list[Any]:
    if isinstance(event, Experience):
        more = (event.task, event.incarnation, event.retention, event.consolidates)
        return ["learn", event.name, event.units, event.sample_ids, *more]
    requests = [[r.scope, r.keys, r.sample_ids, r.barred_ids, r.received] for r in event.requests]
    return ["forget", event.name, event.reason, event.exact, *requests]


FROM = importlib.import_module


def TRIED(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or what it raises."""
    try:
        return call()
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class PAPER:
    """A file of text that is nowhere on disk."""

    def __init__(self, text: str, name: str = "paper") -> None:
        self.text, self.name, self.stem = text, name, name

    def __str__(self) -> str:
        return self.name

    def expanduser(self) -> PAPER:
        return self

    def read_text(self, encoding: str | None = None) -> str:
        return self.text

    def open(self, *_: Any, **__: Any) -> io.StringIO:
        return io.StringIO(self.text, newline="")


def ROUND(value: Any, digits: int = 5) -> Any:
    """Return numbers, arrays, tensors or lists of them rounded, with no -0."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: ROUND(getattr(value, f.name), digits) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: ROUND(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [ROUND(v, digits) for v in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().double().numpy()
    if isinstance(value, np.ndarray | float | np.floating):
        return (np.round(value, digits) + 0.0).tolist() if np.ndim(value) else float(round(float(value), digits)) + 0.0
    return value


class LETTERS:
    """A tokeniser whose tokens are the numbers of letters."""

    bos, eos, of_rows, vocab_size = 1, 2, True, 128

    @staticmethod
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    @staticmethod
    def decode(ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i > 2)

    @staticmethod
    def to_json() -> str:
        return "letters"


NS = SimpleNamespace


def D(values: Any) -> torch.Tensor:
    """Return numbers of 64 bits."""
    return torch.tensor(values, dtype=torch.float64)


def MODEL(*body: torch.nn.Module, head: torch.nn.Module | None = None) -> FlatModel:
    """Return a perceptron from 2 over 3 to 4, or a model of some layers, whose weights are written down here."""
    layers = body or (torch.nn.Linear(2, 3), torch.nn.ReLU())
    model = FlatModel(Network(torch.nn.Sequential(*layers), head or torch.nn.Linear(3, 4)))
    model.parameters.copy_((torch.arange(len(model.parameters)) * 5 % 11 - 4) / 8)
    model.train(False)
    return model


def SETTING(**more: Any) -> Any:
    """Return what parts of strategies ask a setting for."""
    there: dict[str, Any] = {
        "make_model": MODEL,
        "outline": MODEL,
        "zeros": lambda: torch.zeros(25),
        "num_samples": 16,
        "key": Key(0),
        "objective": Classification(4),
        "units": PLAN().units,
        "device": "cpu",
        "training": Training(),
    }
    return SimpleNamespace(**(there | more))


def ASKED(*pairs: tuple[str, str]) -> Batch:
    """Return rows of letters: questions and answers."""
    encoded = [(LETTERS.encode(q), [*LETTERS.encode(a), LETTERS.eos]) for q, a in pairs]
    return Batch(torch.arange(len(pairs)), rows(encoded, LETTERS), torch.zeros(len(pairs)))


def GENERAL(name: str = "a") -> Any:
    """Return a text of letters with subjects, terms and refusals."""
    return Text(LETTERS, ((78, 2), (79, 80, 2)), subjects=frozenset({"Ann", "Ann Bo", "Cy"}), terms={"Ann": (name,)})
