"""No part of a state may go missing: each differs somewhere from what it was at the start, and is missed without it.

A part that is at every event what it was at the start could be left out of `load_state_dict`, and no test of resuming
would notice. So every candidate lives in all of its forms and in a stream that declares tasks permanent or temporary;
for each part of the state of each method an event is looked for after which it has changed. There it is put back to
what it was (or to nothing, if it was not there), and restoring that must fail or leave another state. Restoring what
was really there must leave that, and go on to the same end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from contract import facts
from contract.candidates import FORMS, Candidate, candidates, class_named, picture_candidates, text_candidates
from contract.lived import Whole, resumed, whole_of
from contract.promises import through_disk
from contract.worlds import World, world_of

from lifelong.config.run import StrategyConfig
from strategies.base import State
from strategies.parts.model import digest
from strategies.step import ledger_after, restore, step
from streams.config import parse
from streams.errors import ConfigError, RequestError
from streams.registry import entries

Path = tuple[str | int, ...]
Owner = tuple[str, str]
"""Kind and name of a method."""
MORE: dict[str, dict[str, Any]] = {
    "l2(later)": {"learner": {"name": "l2", "from_start": False}, "unlearner": "none"},
    "clpu-der(permanent)": {
        "isolated": {"name": "clpu-der", **class_named("isolated", "clpu-der").test_options, "undeclared": "permanent"}
    },
    "der-plus-plus+gradient-ascent": {
        "learner": {"name": "der-plus-plus", "memory": 30, "batch": 8},
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "naive+curate(share)": {"learner": "naive", "guard": {"name": "curate", "tau": None}},
    "naive+eco(names)": {"learner": "naive", "guard": {"name": "eco", "threshold": 0.5, "classifier": "names"}},
    "sisa(anew)": {"isolated": {"name": "sisa", "shards": 2, "slices": 2, "fresh": "everything"}},
    "supsup(kkt, none)": {"isolated": {"name": "supsup", "density": 0.2, "kkt": "all", "repair": "none"}},
    "uncle(protect)": {
        "isolated": {"name": "uncle", **class_named("isolated", "uncle").test_options, "forgotten": "protect"}
    },
}
"""Options under which more of a state changes than under those of the other contract tests."""
CONSTANTS = ("rotary_emb.", "sight.")
"""Buffers of networks that no training moves."""
SGD: Owner = ("learners", "the training loop")
"""What all plugins share: the model, and an optimizer that lives on."""


def parts_of(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield tensors, numbers, texts, plain lists and what is empty, with where they are."""
    if isinstance(state, dict) and state:
        for key, value in state.items():
            yield from parts_of(value, (*path, key))
    elif isinstance(state, list | tuple) and any(isinstance(v, dict | list | tuple | torch.Tensor) for v in state):
        for place, value in enumerate(state):
            yield from parts_of(value, (*path, place))
    else:
        yield path, state


def named(path: Path, candidate: Candidate) -> tuple[Owner, str]:
    """Whose a part is, and its name there: numbers stand for others."""
    config = candidate.config
    owner, rest = SGD, path
    if config.isolated is not None:
        owner = ("isolated", config.isolated.name)
    elif path[0] == "plugins":
        owner, rest = ("learners", str(path[1])), path[2:]
    elif path[0] == "guard":
        assert config.guard is not None
        owner, rest = ("guards", config.guard.name), path[1:]
    return owner, "/".join("*" if isinstance(k, int) or k.lstrip("-").isdigit() else k for k in rest)


def put_back(state: State, path: Path, start: dict[Path, Any]) -> State:
    """Return the state with one part as it was at the start, or with nothing there."""
    first, *rest = path
    copy: Any = list(state) if isinstance(state, list | tuple) else dict(state)
    if rest:
        copy[first] = put_back(copy[first], tuple(rest), {p[1:]: v for p, v in start.items() if p[:1] == (first,)})
    else:
        copy[first] = start[path] if path in start else nothing_like(copy[first])
    return copy  # type: ignore[no-any-return]


def nothing_like(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else None if value is None else type(value)()


def has_changed(path: Path, value: Any, start: dict[Path, Any]) -> bool:
    return digest(value) != digest(start[path] if path in start else nothing_like(value))


def places(candidate: Candidate) -> list[str]:
    """The worlds that it can live in."""
    if candidate.supports == {"tokens"}:
        return [candidate.place("text")]
    if candidate in picture_candidates():
        return ["pictures"]
    forms = [*FORMS, *(["carrying"] if candidate.config.isolated is None else ["declared", "shaped"])]
    return [candidate.place(form) for form in forms if candidate.lives(form)]


def restored(world: World, candidate: Candidate, state: State, index: int) -> Whole:
    """What is there when a state is restored after an event."""
    strategy, ledger = world.build(candidate), ledger_after(world.ledger(), world.stream.events[: index + 1])
    restore(strategy, state, ledger)
    return whole_of(world, strategy)


def is_missed(world: World, candidate: Candidate, state: State, index: int, whole: Whole) -> bool:
    """Whether restoring that state fails, or leaves something else than there was."""
    try:
        return restored(world, candidate, state, index) != whole
    except Exception:  # whatever it is, it is noticed
        return True


class Looked:
    """What was found out about the parts of the state of one method."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.seen: set[str] = set()
        self.changed: set[str] = set()
        self.missed: set[str] = set()

    def live(self, world: World, candidate: Candidate) -> None:
        """Live once, and put back each part that was not missed yet after every event that has changed it."""
        try:
            strategy, ledger = world.build(candidate), world.ledger()
        except ConfigError:  # it says that this is not for it
            return
        if facts.relives(strategy):
            return
        start = dict(parts_of(strategy.state_dict()))
        last: tuple[State, int] | None = None
        for index, event in enumerate(world.stream.events):
            try:
                step(strategy, event, ledger)
            except RequestError:  # nor is this
                return
            state = strategy.state_dict()
            if changed := self._changed_by_now(state, start, candidate):
                whole, state = whole_of(world, strategy), through_disk(state)
                assert restored(world, candidate, state, index) == whole, f"{candidate.name}: restored after {index}"
                last = state, index
                self.missed |= {
                    part
                    for part, path in changed.items()
                    if is_missed(world, candidate, put_back(state, path, start), index, whole)
                }
        if last is not None:
            _, end = resumed(world, candidate, *last)
            assert end == whole_of(world, strategy), f"{candidate.name}: went on after {last[1]}"

    def _changed_by_now(self, state: State, start: dict[Path, Any], candidate: Candidate) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path, value in parts_of(state):
            owner, part = named(path, candidate)
            if owner == self.owner and part and not part.rpartition("body.")[2].startswith(CONSTANTS):
                self.seen.add(part)
                if part not in self.missed and has_changed(path, value, start):
                    self.changed.add(part)
                    found[part] = path
        return found

    def never(self, some: set[str]) -> set[str]:
        """Return parts that are not among some, without those that hold others, at other times."""
        inner = {part for part in self.seen if not any(other.startswith(f"{part}/") for other in self.seen)}
        return {part for part in inner - some if part.rpartition("/")[2] != "buffers"}  # of who has none


def keepers(owner: Owner) -> list[Candidate]:
    """Candidates that the state of a method is part of; of the training loop a few."""
    every = [c for c in (*candidates(), *text_candidates(), *picture_candidates()) if c.keeps]
    every += [Candidate(name, parse(StrategyConfig, config)) for name, config in MORE.items()]
    if owner == SGD:
        return [c for c in every if c.parts[0] == ("learners", "naive")][:2]
    return [c for c in every if owner in c.parts]


def owners() -> list[Owner]:
    """All methods that have a state."""
    kinds = ("learners", "guards", "isolated")
    return [SGD, *((kind, name) for kind in kinds for name in sorted(entries(kind)))]


def undeclared(parts: set[str], idle: Mapping[str, str]) -> set[str]:
    """Return parts that are neither named nor in one that is."""
    return {part for part in parts if not any(f"{part}/".startswith(f"{name}/") for name in idle)}


@pytest.mark.nightly
@pytest.mark.parametrize("owner", owners(), ids=lambda owner: "-".join(owner))
def test_every_part_of_a_state_is_missed(owner: Owner) -> None:
    looked = Looked(owner)
    for candidate in keepers(owner):
        for place in places(candidate):
            looked.live(world_of(place), candidate)
    idle = {} if owner == SGD else class_named(*owner).idle_state  # type: ignore[union-attr]
    never, silent = looked.never(looked.changed), looked.never(looked.missed)
    assert undeclared(never, idle) == set(), "what no event changes, no test of resuming misses"
    assert undeclared(silent, idle) == set(), "it changes, and nothing is missed without it"
    assert all(undeclared(silent, {name: why}) < silent for name, why in idle.items()), "it does change, and is missed"
