"""Which options of a strategy are tuned, and in which range: what its parts declare, and what the study says."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from lifelong.config.parts import Part, StrategyParts, find_part
from lifelong.config.run import StrategyConfig, find_strategy
from lifelong.setup.suitability import part_of
from lifelong.study.tune import Tune
from strategies.ranges import Range, Space
from streams.config import Named, parse
from streams.errors import ConfigError, closest
from streams.registry import entries

Options = dict[str, Any]
"""Values by key, as in ``{"unlearner.lr": 0.01}``."""


def spaces_of(tune: Tune, strategies: Mapping[str, StrategyConfig]) -> dict[str, dict[str, Space]]:
    """Return what is tuned of every strategy that has something to tune.

    Args:
        tune: what the study says.
        strategies: as they are written.

    Raises:
        ConfigError: a strategy or an option does not exist, an option refuses a value of its range, or there is nothing
            to tune.
    """
    for key, names in (("of", tune.of), ("ranges", tuple(tune.ranges))):
        for name in names:
            if name not in strategies:
                raise ConfigError(f"tune.{key}: there is no strategy {name!r}. {closest(name, strategies)}")
    spaces: dict[str, dict[str, Space]] = {}
    for name, strategy in strategies.items():
        if tune.of and name not in tune.of:
            continue
        space = declared(find_strategy(strategy, f"strategies.{name}"), tune)
        for key, chosen in tune.ranges.get(name, {}).items():
            value_at(strategy, key, f"tune.ranges.{name}")  # it must be there
            if chosen is None:
                space.pop(key, None)
            else:
                space[key] = chosen
        for key in space:
            _check_ends(name, strategy, key, space[key])
        if space:
            spaces[name] = space
        elif name in tune.of:
            raise ConfigError(f"tune.of: {name!r} declares nothing to tune; name options of it in tune.ranges.{name}.")
    if not spaces:
        raise ConfigError("tune: no strategy declares anything to tune. Name options of theirs in tune.ranges.")
    return spaces


def ends(space: Space) -> list[Any]:
    """Return the outermost values of a range, or all choices."""
    return [space.at(0.0), space.at(1.0)] if isinstance(space, Range) else list(space)


def value_at(strategy: StrategyConfig, key: str, where: str = "") -> Any:
    """Return what an option is, written or by default.

    Raises:
        ConfigError: the strategy has no such option.
    """
    at: Any = _written_out(find_strategy(strategy, where))
    for step in _steps(at, key, where):
        at = _below(at, step, key, where)
    return at


def with_options(strategy: StrategyConfig, options: Mapping[str, Any]) -> StrategyConfig:
    """Return a strategy with other values of some options.

    Raises:
        ConfigError: an option does not exist, or refuses its value.
    """
    data, resolved = strategy.model_dump(mode="json", exclude_unset=True), _written_out(find_strategy(strategy, ""))
    for key, value in options.items():
        *path, last = _steps(resolved, key, "")
        at, full = data, resolved
        for step in path:
            full = _below(full, step, key, "")
            if isinstance(at, list):
                at = at[int(step)]
                continue
            if isinstance(at.get(step), str):
                at[step] = {"name": at[step]}
            at = at.setdefault(step, copy.deepcopy(full))
        at[last] = value
    changed = parse(StrategyConfig, data)
    find_strategy(changed, "")
    return changed


def declared(parts: StrategyParts, tune: Tune) -> dict[str, Space]:
    """Return what the parts of a strategy declare, of those parts that are tuned."""
    space: dict[str, Space] = {}
    for slot in tune.parts:
        if slot == "learner":
            for plugin in parts.learner:
                space |= dict(_of_part(plugin, f"learner.{plugin.name}"))
        else:
            part = {"unlearner": parts.unlearner, "guard": parts.guard, "isolated": parts.isolated}[slot]
            space |= {} if part is None else dict(_of_part(part, slot))
    return space


def _of_part(part: Part, key: str) -> Iterator[tuple[str, Space]]:
    """Yield what a part declares, and what a method declares that it applies in turn (`prune-first`)."""
    for option, space in part_of(part.kind, part.module).ranges.items():
        yield f"{key}.{option}", space
    for option, inner in _inner(part):
        yield from _of_part(inner, f"{key}.{option}")


def _inner(part: Part) -> Iterator[tuple[str, Part]]:
    """Yield the methods that a method applies in turn, by its options."""
    for option in type(part.options).model_fields:
        named = getattr(part.options, option)
        if isinstance(named, Named) and named.name in entries(part.kind):
            yield option, find_part(part.kind, named, f"{part.where}.{option}")


def _written_out(parts: StrategyParts) -> Options:
    """Return a strategy's data with every option, also of methods that its methods apply."""

    def data(part: Part) -> Options:
        return part.data() | {option: data(inner) for option, inner in _inner(part)}

    single = {"unlearner": parts.unlearner, "guard": parts.guard, "isolated": parts.isolated}
    found: Options = {slot: data(part) for slot, part in single.items() if part is not None}
    return found | ({"learner": [data(p) for p in parts.learner]} if parts.learner else {})


def _steps(data: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return a key as steps into a strategy's data; a plugin of a learner is found by its name."""
    slot, _, rest = key.partition(".")
    if slot == "learner":
        for index, plugin in enumerate(data.get("learner", [])):
            if rest.startswith(f"{plugin['name']}."):
                return ["learner", str(index), *rest.removeprefix(f"{plugin['name']}.").split(".")]
    elif slot in data and rest:
        return [slot, *rest.split(".")]
    having = [f"learner.{p['name']}." for p in data.get("learner", [])] + [f"{s}." for s in data if s != "learner"]
    raise ConfigError(f"{where}: {key!r} is no option of the strategy. Keys begin with {' or '.join(having)}")


def _below(at: Any, step: str, key: str, where: str) -> Any:
    if isinstance(at, list):
        return at[int(step)]
    if not isinstance(at, dict) or step not in at:
        known = [k for k in at if k != "name"] if isinstance(at, dict) else []
        raise ConfigError(f"{where}.{key}: there is no option {step!r}. {closest(step, known)}")
    return at[step]


def _check_ends(name: str, strategy: StrategyConfig, key: str, space: Space) -> None:
    for value in ends(space):
        try:
            with_options(strategy, {key: value})
        except ConfigError as error:
            raise ConfigError(
                f"tune.ranges.{name}.{key}: the option refuses {value!r} of its range: "
                f"{str(error).removeprefix('.')} Narrow the range, or set null to leave the option as it is."
            ) from error
