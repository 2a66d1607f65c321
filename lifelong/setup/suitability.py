"""Whether an unlearner can do what it is asked for: found out before any compute is spent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from strategies.base import Learner, Strategy, Unlearner
from strategies.composed import Composed
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.classification import Classification
from strategies.outcome import LastDraw
from strategies.parts.fit import Training
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.registry import class_of, entries, load
from streams.stream import Stream


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
    """Refuse an unlearner that does not fit the objective or the learner beside it.

    Args:
        unlearner, learner: both halves.
        plugins: names of the learner's plugins.
        where: configuration key, for the message.

    Raises:
        ConfigError: says what is missing, and which unlearners do without it.
    """
    objective = learner.setting.objective
    is_text = isinstance(objective, CausalLM)
    kind = "tokens" if is_text else "classes" if isinstance(objective, Classification) else "numbers"
    name = _name_of(unlearner)
    if unlearner.targets not in ("any", kind) and not (is_text and unlearner.on_text):
        can = _those(lambda u: u.targets in ("any", kind) or (is_text and u.on_text), unlearner)
        raise ConfigError(
            f"{where}.unlearner: {name} is for {_WORDS[unlearner.targets]} alone, and the model predicts "
            f"{_PREDICTED[kind]}. {can}"
        )
    missing = [p for p in unlearner.needs_plugins if p not in plugins]
    if missing:
        raise ConfigError(
            f"{where}.learner: {name} reads what the plugin {missing[0]!r} notes down while learning; add it: "
            f"learner: [{', '.join([*plugins, *missing])}]."
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
    """Refuse a stream with a request that the strategy's unlearner cannot serve.

    Raises:
        ConfigError: names the request, and the unlearners that can serve it.
    """
    if not isinstance(strategy, Composed):
        return
    unlearner, classes = strategy.unlearner, stream.source.class_ids
    ledger = Ledger(stream.source, stream.task_of)
    for event in stream.events:
        if not isinstance(event, DeletionRequest):
            ledger.admit(event)
            continue
        ledger.delete(event)
        at = f"{where}.unlearner: {_name_of(unlearner)} cannot serve {event.name}"
        scopes = {r.scope for r in event.requests}
        if not scopes <= set(unlearner.scopes):
            wrong = sorted(scopes - set(unlearner.scopes))[0]
            can = _those(lambda u, s=scopes: s <= set(u.scopes), unlearner)  # type: ignore[misc]
            raise ConfigError(f"{at}, which names a {wrong}; it serves {_listed(unlearner.scopes)} only. {can}")
        live = ledger.live_ids
        left = np.intersect1d(classes[event.sample_ids], classes[live]) if unlearner.whole_classes else live[:0]
        if len(left):
            can = _those(lambda u: not u.whole_classes, unlearner)
            raise ConfigError(f"{at}: it deletes whole classes, and samples of class {left[0]} stay. {can}")
        if unlearner.needs_retained and not len(live):
            can = _those(lambda u: not u.needs_retained, unlearner)
            raise ConfigError(f"{at}, which deletes all that was learned: nothing is left to retain. {can}")


_PREDICTED = {"classes": "classes", "numbers": "real numbers", "tokens": "tokens"}
_WORDS = {"classes": "classification", "numbers": "regression", "any": "anything"}


def _name_of(unlearner: Unlearner) -> str:
    return type(unlearner).__module__.rsplit(".", 1)[-1].replace("_", "-")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _those(can: Callable[[Unlearner], bool], like: Unlearner) -> str:
    """Return the tail of a message: the unlearners, with their defaults, that do what `like` does not."""
    found = []
    for name in entries("unlearners"):
        module = load("unlearners", name)
        try:
            unlearner = class_of(module, Unlearner)(parse(module.Config, {}), like.setting)
        except ConfigError:  # it has no defaults, or is for other models
            continue
        if can(unlearner):
            found.append(name)
    return f"Those that can: {', '.join(found)}."
