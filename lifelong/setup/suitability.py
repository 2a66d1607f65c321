"""Whether methods can do what they are asked for: found out before any compute is spent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType

import numpy as np

from lifelong.config.parts import Part, find_part
from strategies.base import EVERYTHING, Guard, Learner, Plugin, Setting, Strategy, Unlearner
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.objectives._base import Objective
from strategies.outcome import LastDraw
from strategies.parts.fit import Training
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.ledger import Ledger, Life
from streams.registry import class_of, entries, load
from streams.stream import Stream

Method = Strategy | Learner | Plugin | Unlearner | Guard


def part_of(kind: str, module: ModuleType) -> type[Method]:
    """Return the class that a module of methods holds; it need not be built."""
    if kind == "unlearners":
        return class_of(module, Unlearner)  # type: ignore[type-abstract]
    if kind == "guards":
        return class_of(module, Guard)  # type: ignore[type-abstract]
    if kind == "isolated":
        return class_of(module, Strategy)  # type: ignore[type-abstract]
    if any(
        isinstance(v, type) and issubclass(v, Learner) and v.__module__ == module.__name__
        for v in vars(module).values()
    ):
        return class_of(module, Learner)  # type: ignore[type-abstract]
    return class_of(module, Plugin)


def check_predicts(objective: type[Objective], name: str) -> None:
    """Refuse an objective that does not say what it predicts.

    Raises:
        ConfigError: it does not.
    """
    predicts = getattr(objective, "predicts", None)
    if predicts not in EVERYTHING:
        raise ConfigError(
            f"objective: {name}: {objective.__name__}.predicts is {predicts!r}; it must be one of "
            f"{', '.join(sorted(EVERYTHING))}. Methods are chosen by it."
        )


# Why: docs/decisions.md#methods-declare-what-they-support-objectives-what-they-predict
def check_support(part: Part, where: str, setting: Setting, plugins: Sequence[str]) -> None:
    """Refuse a method that cannot serve what the objective predicts, before it is built.

    Args:
        part: plugin, unlearner, guard or isolated strategy; its options may name another method that it runs.
        where: the configuration key to name in an error.
        setting: what it would be built in.
        plugins: names of the learner's plugins; what needs others is not recommended.

    Raises:
        ConfigError: says what it supports, and which others can.
    """
    method = part_of(part.kind, part.module)
    if setting.objective.predicts not in method.supports:
        raise ConfigError(
            f"{where}: {part.name} is for models that predict {_listed(sorted(method.supports))}; this one predicts "
            f"{setting.objective.predicts}. {those_that_can(part.kind, setting, plugins)}"
        )
    if issubclass(method, Unlearner) and (inner := method.follows(part.options)) is not None:
        check_support(find_part("unlearners", inner, f"{where}.method"), f"{where}.method", setting, plugins)


def those_that_can(
    kind: str, setting: Setting, plugins: Sequence[str] = (), can: Callable[[Unlearner], bool] = lambda _: True
) -> str:
    """Return the tail of a message: the methods of a kind that can be built as they are, and serve the objective.

    Args:
        kind: learners, unlearners, guards or isolated.
        setting: what they would be built in.
        plugins: names of the learner's plugins; an unlearner that needs others is left out.
        can: what is asked of an unlearner beside.
    """
    able: list[str] = []
    for name in entries(kind):
        module = load(kind, name)
        part = part_of(kind, module)
        if setting.objective.predicts not in part.supports:
            continue
        try:
            built: Method = part(parse(module.Config, {}), setting)  # type: ignore[call-arg]
        except ConfigError:  # it has no defaults, or is for other models
            continue
        if not isinstance(built, Unlearner) or (set(built.needs_plugins) <= set(plugins) and can(built)):
            able.append(name)
    return f"Those that can: {', '.join(able)}." if able else f"None of the {kind} can."


def check_training(strategy: type[Strategy], name: str, training: Training, where: str) -> None:
    """Refuse options of training that an isolated strategy would pass over.

    Args:
        strategy: what is to be built, with what it declares.
        name: what it is called in the configuration.
        training: of the run.
        where: configuration key, for the message.

    Raises:
        ConfigError: names the option, and why it can have no effect.
    """
    for key, reason in strategy.unheeded.items():
        value, default = getattr(training, key), Training.model_fields[key].default
        if value != default:
            raise ConfigError(
                f"{where}: {name} cannot heed training.{key}: {json.dumps(value)}, since {reason}. Set it to "
                f"{json.dumps(default)}, or leave {name} out of this run."
            )


def check_parts(unlearner: Unlearner, learner: Learner, plugins: Sequence[str], where: str) -> None:
    """Refuse an unlearner that does not fit the learner beside it.

    Args:
        unlearner, learner: both halves.
        plugins: names of the learner's plugins.
        where: configuration key, for the message.

    Raises:
        ConfigError: says what is missing.
    """
    missing = [p for p in unlearner.needs_plugins if p not in plugins]
    if missing:
        raise ConfigError(
            f"{where}.learner: {unlearner.name} reads what the plugin {missing[0]!r} notes down while learning; "
            f"add it: learner: [{', '.join([*plugins, *missing])}]."
        )
    options = unlearner.config.model_dump()
    reads_memory = "memory" in (options.get("retained"), options.get("whole"))
    if reads_memory and learner.access.retained == 0:
        raise ConfigError(
            f"{where}.unlearner: 'memory' is what the learner keeps, and {' + '.join(plugins)} keeps no "
            f"samples. Add a memory, such as {{name: replay, memory: 200}}, or choose full."
        )
    if options.get("retained") == "draw":
        try:
            learner.part(LastDraw)
        except ConfigError as error:
            raise ConfigError(
                f"{where}.unlearner: 'draw' is what a selection drew last, and {' + '.join(plugins)} selects nothing. "
                f"Add a selection, such as adapt-infinity or random-selection, or choose full."
            ) from error
    inner = getattr(unlearner, "method", None)
    if isinstance(inner, Unlearner):  # of one that runs another
        check_parts(inner, learner, plugins, where)


def check_stream(strategy: Strategy, stream: Stream, where: str) -> None:
    """Refuse a stream with classes that the strategy would not know, or a request that its unlearner cannot serve.

    Raises:
        ConfigError: names the experience; or the request, and the unlearners that can serve it.
    """
    if strategy.within_units:
        _check_classes(stream, where)
    if not isinstance(strategy, Composed):
        return
    unlearner, learner = strategy.unlearner, strategy.learner
    plugins = list(learner.plugins) if isinstance(learner, SGDLearner) else []
    ledger, classes = Ledger(stream.source, stream.task_of), stream.source.class_ids
    live = np.zeros(stream.source.num_classes, dtype=np.int64)  # samples of each class
    for event in stream.events:
        if not isinstance(event, DeletionRequest):
            new = event.sample_ids[ledger.life[event.sample_ids] != Life.LEARNED]
            ledger.admit(event)
            live += np.bincount(classes[new[ledger.life[new] == Life.LEARNED]], minlength=len(live))
            continue
        ledger.delete(event)
        gone = np.bincount(classes[event.sample_ids], minlength=len(live))
        live -= gone
        refusal = partial(_refusal, event, int(live.sum()), np.flatnonzero((gone > 0) & (live > 0)))
        if reason := refusal(unlearner):
            can = those_that_can("unlearners", unlearner.setting, plugins, _not_refused(refusal))
            raise ConfigError(f"{where}.unlearner: {unlearner.name} cannot serve {event.name}{reason} {can}")


def became(strategy: Strategy, where: str) -> list[str]:
    """Return in words which parts of a strategy are another method with the options that they have."""
    if not isinstance(strategy, Composed):
        return []
    plugins = strategy.learner.plugins if isinstance(strategy.learner, SGDLearner) else {}
    parts: dict[str, Plugin | Unlearner] = {f"learner.{name}": plugin for name, plugin in plugins.items()}
    parts[f"unlearner.{strategy.unlearner.name}"] = strategy.unlearner
    return [
        f"{where}.{key}: with {in_words(part.becomes[other])} it is {other}, but for what is drawn by its name."
        for key, part in parts.items()
        if (other := part.became()) is not None
    ]


def in_words(options: Mapping[str, object]) -> str:
    """Return options as text.

    >>> in_words({"share": 1.0, "form": "masked"})
    'share: 1.0 and form: masked'
    """
    return " and ".join(f"{key}: {value}" for key, value in options.items())


def _check_classes(stream: Stream, where: str) -> None:
    labels = stream.source.y.numpy()
    for experience in stream.experiences if labels.dtype.kind != "f" else ():
        known = [c for unit in experience.units for c in stream.units[unit].classes]
        if len(others := np.setdiff1d(labels[experience.sample_ids], known)):
            raise ConfigError(
                f"{where}.isolated: of {experience.name} it would know the classes of its units alone, and samples of "
                f"class {stream.source.class_names[others[0]]} come with it. Choose a scenario that keeps classes "
                f"together, or leave this strategy out."
            )


def _not_refused(refusal: Callable[[Unlearner], str]) -> Callable[[Unlearner], bool]:
    return lambda unlearner: not refusal(unlearner)


def _refusal(event: DeletionRequest, live: int, stay: np.ndarray, unlearner: Unlearner) -> str:
    """Return why an unlearner cannot serve a request, or nothing.

    Args:
        event: the request.
        live: samples that are left.
        stay: classes of the request's samples of which some are left.
        unlearner: who is asked.
    """
    scopes = {r.scope for r in event.requests}
    if not scopes <= set(unlearner.scopes):
        wrong = sorted(scopes - set(unlearner.scopes))[0]
        return f", which names a {wrong}; it serves {_listed(unlearner.scopes)} only."
    if unlearner.whole_classes and len(stay):
        return f": it deletes whole classes, and samples of class {stay[0]} stay."
    if unlearner.needs_retained and not live:
        return ", which deletes all that was learned: nothing is left to retain."
    return ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
