"""Options that a configuration sets in vain, and those that it leaves as they are: said before a run, not refused.

All strategies of a run share one `training`, and a value for it may be meant for the others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping

from lifelong.config.parts import StrategyParts
from lifelong.setup.suitability import part_of
from strategies.base import Learner, Strategy
from strategies.parts.passes import Training
from strategies.parts.training.optimizers import OptimizerConfig
from streams.config import Config

_OF = {"momentum": "sgd", "betas": "adam", "eps": "adam"}
"""Options of one optimizer alone."""


def without_effect(strategies: Mapping[str, StrategyParts], training: Training) -> list[str]:
    """Return what a configuration sets in vain, in words.

    That is, of `training`, what a strategy does in its own way always, and what belongs to an optimizer that no
    strategy takes; and of their own options what belongs to the other optimizer. What is not set is not told.
    """
    said, taken = [], set[str]()
    for parts in strategies.values():
        always: dict[str, object] = {}
        for part in parts:
            method = part_of(part.kind, part.module)
            if issubclass(method, Learner | Strategy):
                always |= method.always
                said += [
                    f"{part.where}: {part.name} always has training.{key}: {json.dumps(value)}; the run's "
                    f"{json.dumps(getattr(training, key))} is for the others."
                    for key, value in method.always.items()
                    if key in training.model_fields_set and getattr(training, key) != value
                ]
            said += list(_of_another_optimizer(part.options, part.where))
        taken.add(str(always.get("optimizer", training.optimizer)))
    return said + list(_of_another_optimizer(training, "training", taken))


def untuned(strategies: Mapping[str, StrategyParts]) -> str:
    """Return which options decide how strongly strategies act and are left at their defaults; nothing if none is."""
    left = []
    for name, parts in strategies.items():
        options = [
            f"{part.name}.{option}"
            for part in parts
            for option in part_of(part.kind, part.module).ranges
            if option.partition(".")[0] not in part.options.model_fields_set
        ]
        left += [f"{name} ({', '.join(options)})"] if options else []
    if not left:
        return ""
    return f"Left at their defaults, which are for other data: {'; '.join(left)}. `lifelong tune` searches them."


def _of_another_optimizer(options: Config, where: str, taken: Collection[str] = ()) -> Iterator[str]:
    """Yield what is set for the optimizer that is not chosen, or for none that is `taken`; nested options too."""
    for key in sorted(options.model_fields_set):
        value = getattr(options, key)
        if isinstance(value, Config):
            yield from _of_another_optimizer(value, f"{where}.{key}")
    if not isinstance(options, OptimizerConfig):
        return
    names = taken or {options.optimizer}
    for key, optimizer in _OF.items():
        value, default = getattr(options, key), type(options).model_fields[key].default
        if key in options.model_fields_set and value != default and optimizer not in names:
            chosen = " or ".join(sorted(names))
            yield f"{where}.{key}: {json.dumps(value)} is for {optimizer}, and the optimizer is {chosen}."
