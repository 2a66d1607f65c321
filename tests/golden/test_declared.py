"""What every method declares, and in which words it is refused: by objective, by learner and by request; committed.

Nothing is trained, and no number is rounded, so that this is the same everywhere. If a change is meant, write the
records anew and look at the difference before committing it::

    python tests/golden/test_declared.py [NAME ...]
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.recorded import kept, write
from golden.test_runs import RUNS, SMALL, hash_of

from lifelong.config.run import RunConfig, StrategyConfig, find_strategy
from lifelong.setup.build import build_strategy, make_setting, make_source, make_stream
from lifelong.setup.suitability import became, check_stream, part_of
from lifelong.setup.without_effect import untuned, without_effect
from strategies.base import Setting, Strategy
from strategies.composed import Composed
from streams.config import parse
from streams.errors import LifelongError
from streams.registry import entries, load
from streams.stream import Stream

FILE = Path(__file__).with_name("declared.json")
KINDS = ("learners", "unlearners", "guards", "isolated")
DECLARED = (
    *("supports", "scopes", "whole_classes", "needs_convolutions", "within_units", "unheeded", "always", "becomes"),
    *("inert", "idle_state", "ranges", "test_options"),
)
WORLDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "classes": (
        SMALL | {"scenario": {"name": "class-incremental", "experiences": 2}},
        [
            {"scope": "sample", "count": 8},
            {"scope": "user", "keys": [3]},
            {"scope": "class", "keys": [1]},
            {"scope": "task", "keys": [0, 1]},
        ],
    ),
    "numbers": (RUNS["regression"] | {"schedule": "none"}, [{"scope": "user", "keys": [3]}]),
    "text": (RUNS["text"] | {"schedule": "none", "evaluation": {}}, [{"scope": "user", "count": 1}]),
    "images": (RUNS["images"] | {"schedule": "none", "evaluation": {}}, [{"scope": "class", "keys": ["3"]}]),
}
"""Configurations, and what is requested after the second experience, or the last."""
LEARNERS: dict[str, Any] = {
    "naive": "naive",
    "memory": {"name": "replay", "memory": 20},
    "logs": ["replay", "update-log", "importance-log", "first-reference"],
    "draw": "random-selection",
}


@functools.cache
def world(name: str) -> tuple[Setting, list[Stream]]:
    """Return what strategies are built in, and a stream for each request."""
    base, requests = WORLDS[name]
    config = parse(RunConfig, base)
    source = make_source(config)
    after = len(make_stream(config, source).experiences)
    asked = [{"name": "explicit", "requests": [{"after": after, **request}]} for request in requests]
    streams = [make_stream(parse(RunConfig, base | {"schedule": schedule}), source) for schedule in asked]
    return make_setting(config, streams[0]), streams


def methods() -> list[str]:
    return [f"{kind} {name}" for kind in KINDS for name in entries(kind)]


def beside(kind: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the strategies that a method is built in, by what is beside it."""
    options = _options(kind, name)
    if kind == "isolated":
        yield "", {"isolated": {"name": name, **options}}
    elif kind == "learners":
        yield "", {"learner": {"name": name, **options}, "unlearner": "none"}
    elif kind == "guards":
        yield "", {"guard": {"name": name, **options}}
    else:
        for learner, plugins in LEARNERS.items():
            yield learner, {"learner": plugins, "unlearner": {"name": name, **options}}


def _options(kind: str, name: str) -> Mapping[str, Any]:
    """Return what a method that has no defaults needs."""
    return part_of(kind, load(kind, name)).test_options if name in ("avalanche", "from-checkpoint") else {}


def said(config: Mapping[str, Any], setting: Setting, streams: list[Stream]) -> Any:
    """Return what is said of a strategy before a run: why it is refused, or what it reads, is, and cannot serve."""
    try:
        parts = find_strategy(parse(StrategyConfig, config), "it")
        strategy = build_strategy(parts, setting)
    except (LifelongError, ImportError) as error:
        return _short(str(error))
    told = [became(strategy, "it"), without_effect({"it": parts}, setting.training), untuned({"it": parts})]
    unlearner = strategy.unlearner if isinstance(strategy, Composed) else None
    needs = None if unlearner is None else [unlearner.name, unlearner.needs_plugins, unlearner.needs_retained]
    states = [strategy.state_bytes(), strategy.stored_ids().tolist()]
    record: list[Any] = [str(strategy.access), hash_of([told, needs, states, parts.data()])]
    for stream in streams:
        refused = _refused(strategy, stream)
        record += [refused] if refused else []
    return record


def _refused(strategy: Strategy, stream: Stream) -> str:
    try:
        check_stream(strategy, stream, "it")
    except LifelongError as error:
        return _short(str(error))
    return ""


def _short(message: str) -> str:
    """Return a message without folders, and without the names of others, which every new method is added to."""
    told, _, names = message.partition("Those that can: ")
    return re.sub(r"/\S+/", "", told) + ("Those that can: ..." if names else "")


def record_of(method: str) -> dict[str, Any]:
    """Return what a method declares, and what is said of it in every world."""
    kind, name = method.split(" ")
    part = part_of(kind, load(kind, name))
    declared = {key: _plain(getattr(part, key)) for key in DECLARED if getattr(part, key, None)}
    record: dict[str, Any] = {"declared": declared}
    for place in WORLDS:
        setting, streams = world(place)
        for what, config in beside(kind, name):
            record[f"{place} {what}".strip()] = said(config, setting, streams)
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


@pytest.mark.nightly
@pytest.mark.parametrize("method", methods())
def test_what_a_method_declares_is_as_committed(method: str) -> None:
    if method == "learners avalanche":
        pytest.importorskip("avalanche")
    records = json.loads(FILE.read_text(encoding="utf-8"))
    assert method in records, "new here: python tests/golden/test_declared.py"
    assert json.loads(json.dumps(record_of(method))) == records[method]


def main(names: list[str]) -> None:
    """Write records: what is new, and what has one of `names` in its own."""
    old = kept(FILE, names)
    write(FILE, {method: old.get(method) or record_of(method) for method in methods()})


if __name__ == "__main__":
    main(sys.argv[1:])
