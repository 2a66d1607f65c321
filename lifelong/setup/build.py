"""From a validated configuration to the real things: source, stream, setting, strategies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from lifelong.config.parts import Part, StrategyParts
from lifelong.config.run import RunConfig, StrategyConfig, content_hash, find_strategy
from lifelong.setup.adaptive_requests import Requester
from lifelong.setup.frozen_features import embedded
from lifelong.setup.suitability import check_parts, check_predicts, check_support, check_training, part_of
from lifelong.setup.worst_case_requests import Chooser
from strategies.base import Guard, Learner, Plugin, Setting, Strategy, Unlearner
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.objectives._base import NamedObjective, Objective
from strategies.parts.model import FlatModel, Network, Passing, frozen, without_values
from strategies.parts.text.token_body import TokenBody
from streams.config import Config, resolve
from streams.errors import ConfigError, closest
from streams.events import Event
from streams.ledger import Ledger
from streams.plan import Aim, Choose, Plan, RequestSpec, Service, assemble
from streams.randomness import Key, seeded_globals
from streams.registry import class_of, is_file
from streams.source import Source
from streams.stream import Stream
from streams.text import load_tokenizer

_kept: ContextVar[dict[str, Source] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def sources_kept() -> Iterator[None]:
    """Load every source once while this is open: nobody changes one."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def make_source(config: RunConfig) -> Source:
    """Load the data."""
    kept = _kept.get()
    if kept is None:
        return _loaded(config)
    named = [None if part is None else part.model_dump(mode="json") for part in (config.source, config.features)]
    name = content_hash([*named, config.device])
    if name not in kept:
        kept[name] = _loaded(config)
    return kept[name]


def _loaded(config: RunConfig) -> Source:
    module, options = resolve("sources", config.source, "source")
    source: Source = module.load(options)
    return source if config.features is None else embedded(source, config.features, config.device)


def make_stream(config: RunConfig, source: Source) -> Stream:
    """Build the stream that every strategy of the run lives through: a function of configuration and seed."""
    scenario, scenario_options = resolve("scenarios", config.scenario, "scenario")
    schedule, schedule_options = resolve("schedules", config.schedule, "schedule")
    plan = scenario.build(source, scenario_options, config.seed)
    key = Key(config.seed)
    scheduled = schedule.place(plan, schedule_options, key / "schedule")
    service = Service(config.service.wait_for, config.service.deadline, config.service.copies)
    corrupted = source.corruption is not None
    if corrupted and plan.source is not source:
        raise ConfigError(
            f"scenario: {config.scenario.name!r} makes new samples of its own, in which nobody would know what was "
            "manipulated. Choose another scenario for a `corrupted` source."
        )
    if "clean" in config.references.kinds and not corrupted:
        raise ConfigError("references.kinds: 'clean' needs manipulated data; set source: {name: corrupted, of: ...}.")
    return assemble(plan, scheduled, service, key / "requests", _choose(config, plan))


def _choose(config: RunConfig, plan: Plan) -> Choose:
    """Return what chooses samples where a request wants that; it lives with a strategy only if it is asked."""

    def published(name: str | None) -> tuple[Strategy, Setting]:
        chosen = name or next(iter(config.strategies))
        if chosen not in config.strategies:
            raise ConfigError(
                f"schedule.publisher: there is no strategy {chosen!r}. {closest(chosen, config.strategies)}"
            )
        setting = make_setting(config, Stream(plan.source, plan.units, plan.experiences, plan.task_of))
        return make_strategy(config.strategies[chosen], setting, f"strategies.{chosen}"), setting

    requester = Requester(published, plan.source, plan.task_of, config.device)
    chooser = Chooser(
        config,
        lambda stream: make_setting(config, stream),
        lambda setting: make_strategy(StrategyConfig(), setting, "schedule"),
    )

    def choose(
        plan: Plan, events: tuple[Event, ...], candidates: np.ndarray, spec: RequestSpec, key: Key
    ) -> np.ndarray:
        chosen_by = requester if isinstance(spec.choice, Aim) else chooser
        return chosen_by(plan, events, candidates, spec, key)

    return choose


def make_objective(config: RunConfig, stream: Stream) -> Objective:
    """Return the objective for the stream's label space and task labels.

    Raises:
        ConfigError: the objective does not fit the targets.
    """
    module, options = resolve("objectives", config.objective, "objective")
    objective = class_of(module, NamedObjective)  # type: ignore[type-abstract]
    check_predicts(objective, config.objective.name)
    return objective.for_data(options, stream.source, stream.task_classes, config.device)


def make_setting(config: RunConfig, stream: Stream) -> Setting:
    """Return what strategies are built in."""
    return make_settings(config, stream)(config.seed)


def make_settings(config: RunConfig, stream: Stream) -> Callable[[int], Setting]:
    """Return what gives the setting of a seed; another one gives other initial weights and orders on the same stream.

    Its network is built, or read from a checkpoint, when the first model is asked for; all models are copies of it,
    and share its frozen weights.

    Raises:
        ConfigError: the objective does not fit the targets.
    """
    module, options = resolve("models", config.model, "model")
    objective = make_objective(config, stream)
    sizes = objective.sizes(stream.source.input_shape)

    def setting(seed: int) -> Setting:
        key = Key(seed)

        def built() -> FlatModel:
            with seeded_globals(key / "init"):
                network: Network = module.build(options, *sizes)
            if not isinstance(network, Network):
                raise ConfigError(
                    f"model: `build` of {config.model.name} returns a {type(network).__name__}; it must return "
                    f"strategies.parts.model.Network(body, head)."
                )
            _check_image_tokens(network, stream.source)
            _check_tokenizer(network, stream.source)
            network.passing = Passing(config.precision, config.channels_last)
            return FlatModel(network, config.trained)

        @functools.cache
        def original() -> FlatModel:
            """Return the model that is copied: frozen weights lie on the device, the others on the CPU."""
            model = built()
            for parameter in frozen(model.network):
                parameter.data = parameter.data.to(config.device)
            return model

        # Why: docs/decisions.md#sizes-are-read-off-a-model-without-weights
        @functools.cache
        def outline() -> FlatModel:
            if is_file(config.model.name):  # may do with its weights what takes values
                return _copied(original(), config.model.name, "meta")
            with without_values():
                return built()

        def make_model() -> FlatModel:
            return _copied(original(), config.model.name, config.device)

        return Setting(
            key, make_model, objective, config.training, stream.units, len(stream.source), outline, config.device
        )

    return setting


def _copied(model: FlatModel, name: str, device: str) -> FlatModel:
    """Return a copy of a model that shares its frozen weights, and nothing else.

    Raises:
        ConfigError: it has a part that cannot be copied.
    """
    try:
        return model.copied(device)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(
            f"model: the network of {name} cannot be copied: {error}. Every strategy gets a copy of it; keep what "
            f"`copy.deepcopy` refuses (locks, open files, tensors with a history) out of its modules."
        ) from error


def check_model(setting: Setting, stream: Stream, config: RunConfig) -> None:
    """Pass two samples through a model or an objective from a file of the user's, as a strategy would.

    Those of the project look at shapes themselves, except those that make images: most models do not.

    Raises:
        ConfigError: the model does not take what the objective gives it, or does not return what that needs.
    """
    model, objective, source = setting.make_model(), setting.objective, stream.source
    data = Ledger(source, stream.task_of, config.device).lend(source.train_ids[:2])
    data_shape = f"{str(data.all().x.dtype).removeprefix('torch.')} {[len(data), *source.input_shape]}"
    name = config.model.name
    if is_file(config.objective.name):
        data_shape, name = f"{data_shape} by {config.objective.name}", f"{name} under {config.objective.name}"
    model.train(False)
    try:
        with torch.no_grad(), seeded_globals(setting.key / "check"):
            batch = objective.batches(data, len(data))[0]
            outputs = objective.outputs(model, batch)
            features = objective.features(model, batch)
    except Exception as error:  # whatever it is, it is in a file that the user wrote
        raise ConfigError(
            f"model: {name} does not take the data, {data_shape}: {type(error).__name__}: {error}. `build` is told the "
            f"shape of one sample, {tuple(source.input_shape)}."
        ) from error
    shape = [len(data), *(["tokens"] if objective.predicts == "tokens" else []), objective.num_outputs]
    if outputs.ndim != len(shape) or (outputs.shape[0], outputs.shape[-1]) != (shape[0], shape[-1]):
        raise ConfigError(
            f"model: {name} makes {list(outputs.shape)} of {data_shape}; it must be [{', '.join(map(str, shape))}]. "
            f"`build` is told the number of outputs."
        )
    losses = objective.losses(outputs, batch)
    if losses.shape != (len(data),) or len(features) != len(data):
        raise ConfigError(
            f"objective: {config.objective.name} gives losses {list(losses.shape)} and features "
            f"{list(features.shape)} of {len(data)} samples; it must be one loss and one row of features for each."
        )


def _check_image_tokens(network: Network, source: Source) -> None:
    """Refuse rows that leave another number of positions for an image than the model makes of one."""
    positions = 0 if source.text is None else source.text.image_tokens
    if positions and isinstance(network.body, TokenBody) and network.body.image_tokens != positions:
        tokens = network.body.image_tokens
        raise ConfigError(
            f"source.image_tokens: {positions} positions are left for an image, and the model makes {tokens} of one. "
            f"Set source.image_tokens: {tokens}."
        )


def _check_tokenizer(network: Network, source: Source) -> None:
    """Refuse rows whose ids mean other text than they did to a checkpoint: all that its weights know would be noise."""
    name = network.body.checkpoint if isinstance(network.body, TokenBody) else None
    if name is None or source.text is None:
        return
    try:
        own = load_tokenizer(name, "model.checkpoint")
    except ConfigError as error:
        why = str(error.__cause__ or error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"model.checkpoint: {name!r} has no tokeniser beside its weights that can be loaded, by which the source's "
            f"could be told to be the same ({why}). Put its tokenizer.json and "
            f"tokenizer_config.json into that folder, or set model.weights: none."
        ) from error
    if own.vocabulary != source.text.tokenizer.vocabulary:
        raise ConfigError(
            f"source.tokenizer: the rows of {source.name!r} are made by another tokeniser than that of {name!r}, so "
            f"that the pretrained weights would read ids of other text. Set source.tokenizer: {name}, or model.weights:"
            f" none."
        )


def make_strategy(strategy: StrategyConfig, setting: Setting, where: str) -> Strategy:
    """Look up what one strategy is made of, and build it in its initial state.

    Raises:
        ConfigError: a name or an option is not valid, or the strategy cannot be built in this setting.
    """
    return build_strategy(find_strategy(strategy, where), setting)


def build_strategy(parts: StrategyParts, setting: Setting) -> Strategy:
    """Build one strategy in its initial state.

    Raises:
        ConfigError: it cannot be built in this setting.
    """
    if parts.isolated is not None:
        check_support(parts.isolated, parts.isolated.where, setting, ())
        isolated = class_of(parts.isolated.module, Strategy)  # type: ignore[type-abstract]
        check_training(isolated, parts.isolated.name, setting.training, parts.isolated.where)
        return cast("Callable[[Config, Setting], Strategy]", isolated)(parts.isolated.options, setting)
    again = parts.unlearning_seed
    key = setting.key / "unlearning" / again if again else setting.key
    unlearning = replace(setting, objective=setting.objective.for_unlearning(), key=key)
    learner = _build_learner(parts, setting)
    assert parts.unlearner is not None
    check_support(parts.unlearner, parts.unlearner.where, unlearning, parts.plugins)
    unlearner: Unlearner = class_of(parts.unlearner.module, Unlearner)(parts.unlearner.options, unlearning)
    check_parts(unlearner, learner, parts.plugins, parts.where)
    return Composed(learner, unlearner, _build_guard(parts.guard, replace(setting, key=key)))


def _build_guard(part: Part | None, setting: Setting) -> Guard | None:
    if part is None:
        return None
    check_support(part, part.where, setting, ())
    return cast("Callable[[Config, Setting], Guard]", class_of(part.module, Guard))(part.options, setting)


def _build_learner(parts: StrategyParts, setting: Setting) -> Learner:
    """Build the learning half: the plain loop with plugins, or a learner that brings its own loop."""
    where = f"{parts.where}.learner"
    for part in parts.learner:
        check_support(part, where, setting, ())
    own_loop = [part for part in parts.learner if issubclass(part_of("learners", part.module), Learner)]
    if own_loop:
        if len(parts.learner) > 1:
            raise ConfigError(f"{where}: {own_loop[0].name!r} brings its own loop and cannot be combined.")
        own = class_of(own_loop[0].module, Learner)  # type: ignore[type-abstract]
        return cast("Callable[[Config, Setting], Learner]", own)(own_loop[0].options, setting)

    plugins = [(part, class_of(part.module, Plugin)) for part in parts.learner]
    step_takers = [part.name for part, plugin in plugins if plugin.steps is not Plugin.steps]
    if len(step_takers) > 1:
        raise ConfigError(
            f"{where}: {step_takers[0]!r} and {step_takers[1]!r} both take the steps, each its own way; leave "
            f"one of them out."
        )
    return SGDLearner(setting, lambda: [(part.name, plugin(part.options, setting)) for part, plugin in plugins])
