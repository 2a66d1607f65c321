"""What a run is measured with: the evaluator, its audits and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from lifelong.audits._base import Audit, Context
from lifelong.audits._text import token_body_of
from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.evaluator import Evaluator
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.evaluation.samples import Samples
from lifelong.metrics.snapshots._base import SnapshotMetric, all_metrics
from strategies.base import Setting
from streams.config import Config, resolve
from streams.errors import ConfigError
from streams.registry import class_of
from streams.source import Source
from streams.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class Instruments:
    """What a run is measured with.

    Attributes:
        evaluator: passes models over the evaluation samples.
        audits: those that the evaluator makes.
        metrics: of one model at one moment.
    """

    evaluator: Evaluator
    audits: tuple[Audit, ...]
    metrics: tuple[SnapshotMetric, ...]


def make_instruments(
    config: EvaluationConfig, stream: Stream, plan: EvaluationPlan, setting: Setting, device: str
) -> Instruments:
    """Gather the evaluation samples, and build what measures them.

    Raises:
        ConfigError: an audit or a metric is not valid.
    """
    samples = Samples(stream, plan, setting.objective, config.batch_size, device)
    context = Context(setting, stream.source, plan, samples, stream)
    audits = []
    for named in config.audits:
        module, options = resolve("audits", named, f"evaluation.audits.{named.name}")
        make = cast("Callable[[str, Config, Context], Audit]", class_of(module, Audit))
        audits.append(make(named.name, options, context))
    evaluator = Evaluator(stream.source, plan, setting.objective, samples, audits, config.top_classes)
    return Instruments(evaluator, tuple(audits), all_metrics(config.metrics))


def follows_requests(config: EvaluationConfig) -> bool:
    """Return whether an audit looks at all earlier requests again after every request."""
    modules = (resolve("audits", named, f"evaluation.audits.{named.name}")[0] for named in config.audits)
    return any(class_of(module, Audit).follows_requests for module in modules)


def check_instruments(config: EvaluationConfig, source: Source, setting: Setting) -> None:
    """Refuse audits that need what source and model do not have, and options that do not fit, before any compute.

    Raises:
        ConfigError: says which.
    """
    all_metrics(config.metrics)
    longest = max((m.longest_row(source) for m in setting.objective.measurements()), default=0)
    body = token_body_of(setting.outline()) if longest else None
    if body is not None and longest > body.context:
        raise ConfigError(
            f"objective.answers.tokens: with the longest prompt a row has up to {longest} tokens, and the model reads "
            f"at most {body.context}. Make it fewer, or raise model.context where the model has it."
        )
    for named in config.audits:
        module, options = resolve("audits", named, f"evaluation.audits.{named.name}")
        kind = class_of(module, Audit)
        if kind.needs_text and source.text is None:
            raise ConfigError(
                f"evaluation.audits: {named.name!r} looks at answers in text, and the source has none. Leave it out, "
                f"or use a source of text (people, corpora, text-files)."
            )
        if kind.needs_text and source.text is not None and source.text.image_tokens:
            raise ConfigError(
                f"evaluation.audits: {named.name!r} looks at text alone; this source has images. Leave it out."
            )
        if kind.needs_images and setting.objective.predicts != "images":
            raise ConfigError(
                f"evaluation.audits: {named.name!r} looks at images that a model makes, and the model of this run "
                f"predicts {setting.objective.predicts}. Leave it out, or set objective: denoising."
            )
        if kind.needs_token_body and token_body_of(setting.outline()) is None:
            raise ConfigError(
                f"evaluation.audits: {named.name!r} looks into the blocks of a language model, and the body of this "
                f"one is no TokenBody. Leave it out, or choose a model that has one (tiny-llama, causal-checkpoint)."
            )
        kind.check(options, source, setting.objective, f"evaluation.audits.{named.name}")
