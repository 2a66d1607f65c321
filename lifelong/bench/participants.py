"""Who takes part in a track: everything that the registry has, with what the track carries it on, and what is yours."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lifelong.bench.track import Track
from lifelong.config.run import StrategyConfig, read_config
from lifelong.setup.preparation import Prepared, Strategies, prepare
from strategies.base import Guard, Learner, Plugin, Strategy, Unlearner
from streams.config import parse
from streams.errors import ConfigError, LifelongError, closest
from streams.ledger import Access
from streams.registry import entries, is_file, load

KEPT = {"retained": "memory", "whole": "memory"}
"""Options by which a method reads what the learner keeps, and not all that was ever learned."""
PLAIN = ("finetune", "retrain")
"""Unlearners beside which every learner takes part."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A strategy that could take part in a track.

    Attributes:
        name: what it is called.
        config: what it is.
        access: what it reads, as tables call it; nothing where it cannot take part.
        refused: why it cannot take part, or nothing.
    """

    name: str
    config: StrategyConfig
    access: str = ""
    refused: str = ""


def named(track: Track) -> dict[str, StrategyConfig]:
    """Return all that takes part by name, whether or not it can serve the track's requests.

    Every unlearner beside every carrier, but for those that read retained data where the carrier keeps none; every
    learner beside `PLAIN`; every isolated strategy; and what the track names itself.
    """
    found: dict[str, dict[str, Any]] = {}
    for carrier, strategy in track.carriers.items():
        for unlearner in entries("unlearners"):
            module = load("unlearners", unlearner)
            kept = _kept(module, strategy)
            if kept or unlearner in PLAIN or not KEPT.keys() & module.Config.model_fields.keys():
                found[f"{carrier}+{unlearner}"] = strategy | {"unlearner": {"name": unlearner} | kept}
    for learner in entries("learners"):
        for unlearner in PLAIN:
            found.setdefault(f"{learner}+{unlearner}", {"learner": learner, "unlearner": unlearner})
    found |= {name: {"isolated": name} for name in entries("isolated")}
    found |= track.more
    return {name: parse(StrategyConfig, data, name) for name, data in found.items()}


def chosen(track: Track, text: str) -> tuple[str, StrategyConfig]:
    """Return name and configuration of a strategy that a user names.

    Args:
        track: that it is for.
        text: a participant; a file with a strategy (.yaml); or a file with a method (.py).

    Raises:
        ConfigError: nothing is called so; or the file holds no strategy, or is called as a participant.
    """
    file, known = Path(text), named(track)
    if (is_file(text) or file.suffix in {".yaml", ".yml"}) and file.stem in known:
        raise ConfigError(
            f"--strategy: {text}: {file.stem!r} is the name of a participant of track {track.name}. Give the file "
            f"another name; it is the strategy's."
        )
    if is_file(text):
        return file.stem, parse(StrategyConfig, _of_method(track, text), text)
    if file.suffix in {".yaml", ".yml"}:
        data = read_config(file)
        if not data.keys() & {"learner", "unlearner", "guard", "isolated"}:
            raise ConfigError(
                f"{file} is not a strategy. It must say what learns and what forgets, as in 'learner: replay' and "
                f"'unlearner: ./mine.py', or 'isolated: ./mine.py'."
            )
        return file.stem, parse(StrategyConfig, data, file.name)
    if text not in known:
        raise ConfigError(
            f"--strategy: track {track.name} has no participant {text!r}. {closest(text, known)} Your own: a file, as "
            f"in ./mine.py or ./mine.yaml."
        )
    return text, known[text]


def admit(track: Track, name: str, config: StrategyConfig) -> Access:
    """Return what a strategy reads.

    Raises:
        ConfigError: it cannot serve the track's requests, or reads more than the track allows.
    """
    prepared = prepare(track.config(0, {name: config.model_dump(mode="json", exclude_unset=True)}), runs=False)
    return _admitted(track, name, prepared.strategies)


def participants(track: Track) -> list[Participant]:
    """Return everything that could take part, with what it reads, or why it cannot."""
    configs = named(track)
    prepared = prepare(track.config(0), runs=False)
    return [_looked_at(track, prepared, name, config) for name, config in configs.items()]


def _looked_at(track: Track, prepared: Prepared, name: str, config: StrategyConfig) -> Participant:
    for pattern, why in track.expensive.items():
        if fnmatch.fnmatchcase(name, pattern):
            return Participant(name, config, refused=f"too expensive: {why}")
    strategies = {name: config.model_dump(mode="json", exclude_unset=True)}
    try:
        parts = track.config(0, strategies).find_strategies()
        one = Strategies(parts, prepared.setting)
        one.check(prepared.stream)
        return Participant(name, config, _admitted(track, name, one).label())
    except LifelongError as error:
        return Participant(name, config, refused=str(error))


def _admitted(track: Track, name: str, strategies: Strategies) -> Access:
    access = strategies.build(name).access
    if not track.access.allows(access):
        raise ConfigError(
            f"Strategy {name!r} reads {access.label()!r}, and track {track.title} allows {track.access.in_words()!r} "
            f"at most. Choose options that read less (retained: memory), or another track."
        )
    return access


def _kept(module: ModuleType, strategy: dict[str, Any]) -> dict[str, str]:
    learner = strategy.get("learner")
    keeps = isinstance(learner, dict) and "memory" in learner
    return {key: value for key, value in KEPT.items() if keeps and key in module.Config.model_fields}


def _of_method(track: Track, text: str) -> dict[str, Any]:
    """Return a strategy of what a file defines, beside the track's first carrier."""
    module = load("unlearners", text, "--strategy")
    kinds = [kind for kind in (Unlearner, Guard, Strategy, Learner, Plugin) if _defines(module, kind)]
    if len(kinds) != 1:
        raise ConfigError(
            f"--strategy: {text} must define one public class: an Unlearner, a Guard, a learner (Plugin or Learner) or "
            f"a Strategy. Found: {', '.join(k.__name__ for k in kinds) or 'none'}."
        )
    carrier = next(iter(track.carriers.values()))
    method = {"name": text}
    match kinds[0].__name__:
        case "Unlearner":
            return carrier | {"unlearner": method | _kept(module, carrier)}
        case "Guard":
            return carrier | {"guard": method}
        case "Strategy":
            return {"isolated": method}
        case _:
            return {"learner": method, "unlearner": "finetune"}


def _defines(module: ModuleType, kind: type) -> bool:
    return any(
        isinstance(v, type) and issubclass(v, kind) and v.__module__ == module.__name__ and v.__name__[0] != "_"
        for v in vars(module).values()
    )
