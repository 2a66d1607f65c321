"""What every metric in a table of results means, put together from the modules that make them.

Names are made of parts: ``immediate_abs_gap_forget_accuracy`` is the mean over requests, right after each was served
(`immediate_`), of the absolute (`abs_`) difference between run and reference (`gap_`) in accuracy on the forget
set (`forget_` and the objective's measure).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

from lifelong.config.parts import StrategyParts
from lifelong.config.run import RunConfig
from lifelong.metrics import (
    accumulation,
    answers,
    cost,
    detailed,
    gaps,
    knowledge,
    over_stream,
    pairs,
    perplexity,
    relapse,
    requests,
    selection,
    shadows,
    traits,
)
from lifelong.metrics.snapshots import corrective, retained
from strategies.metric import Better, Metric
from strategies.objectives import causal_lm, classification, denoising, regression
from strategies.objectives._base import NamedObjective
from streams.registry import class_of, entries, load

_MODULES: dict[str, ModuleType] = {
    "What is learned and kept": accumulation,
    "Over long streams": knowledge,
    "Requests": requests,
    "What comes back": relapse,
    "What predictions say": retained,
    "One request in detail": detailed,
    "One request beside a reference": pairs,
    "Beside references": gaps,
    "Attacks with many lives": shadows,
    "Corrections": corrective,
    "Many requests": over_stream,
    "Text: answers": answers,
    "Text: domains": perplexity,
    "Cost": cost,
    "What strategies tell of themselves": traits,
    "Selection of training data": selection,
}
_OBJECTIVES = (classification, regression, causal_lm, denoising)

OF_MEASURE: dict[str, tuple[str, Better]] = {
    prefix: meaning
    for module in (accumulation, knowledge, requests, gaps, corrective, retained)
    for prefix, meaning in module.OF_MEASURE.items()
}
"""Prefixes to the name of the objective's measure."""


def _measure_of(module: ModuleType) -> str:
    return class_of(module, NamedObjective).measure


MEASURES: dict[str, Metric] = {_measure_of(m): m.METRICS[_measure_of(m)] for m in _OBJECTIVES}
"""What the objectives score; `OF_MEASURE` is about any of them."""

THEMES: dict[str, dict[str, Metric]] = {
    **{title: module.METRICS for title, module in _MODULES.items()},
    "Text: records of answers": {n: m for n, m in causal_lm.METRICS.items() if n not in MEASURES},
    **{f"Audit {name}": load("audits", name).METRICS for name in entries("audits")},
}
"""All but those of `OF_MEASURE`, by what they are about."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What metrics mean.

    Attributes:
        measures: scores of objectives.
        metrics: all others, by the names that no prefix is left of.
    """

    measures: Mapping[str, Metric]
    metrics: Mapping[str, Metric]

    def describe(self, name: str) -> Metric:
        """Return what a metric means.

        >>> describe("average_accuracy").better
        'higher'
        >>> describe("gap_forget_accuracy").ideal
        0.0

        Raises:
            KeyError: no metric of that name is known.
        """
        if name in self.metrics:
            return self.metrics[name]
        for prefix, when in (("immediate_", "right after each was served"), ("final_", "after the last event")):
            if name.startswith(prefix):
                inner = self.describe(name.removeprefix(prefix))
                return replace(inner, meaning=f"Mean over requests, {when}: {_lower_first(inner.meaning)}")
        if name.startswith("worst_"):
            inner = self.describe(name.removeprefix("worst_"))
            meaning = f"Mean over requests of the highest at any reference: {_lower_first(inner.meaning)}"
            return replace(inner, meaning=meaning)
        if name.startswith("abs_"):
            inner = self.describe(name.removeprefix("abs_"))
            return replace(inner, meaning=f"Absolute value of: {_lower_first(inner.meaning)}", better="lower")
        if name.startswith("gap_"):
            inner = self.describe(name.removeprefix("gap_"))
            return replace(
                inner, meaning=f"Run minus reference: {_lower_first(inner.meaning)}", better="zero", ideal=0.0
            )
        of_all_layers = re.sub(r"(?<=_layer)_\d+$", "", name)
        if of_all_layers in self.metrics:
            return self.metrics[of_all_layers]
        if name.startswith("loss_"):
            term = name.removeprefix("loss_")
            return Metric(f"Term {term!r} of what was minimised, mean per sample.", "loss", "lower")
        return self._of_measure(name)

    def knows(self, name: str) -> bool:
        """Return whether the meaning of a metric is known."""
        try:
            self.describe(name)
        except KeyError:
            return False
        return True

    def is_share(self, measure: str) -> bool:
        """Return whether a score lies between 0 and 1."""
        return measure in self.measures and self.measures[measure].unit == "share"

    def to_json(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return everything as plain data."""
        return {
            "measures": {name: asdict(metric) for name, metric in self.measures.items()},
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
        }

    def _of_measure(self, name: str) -> Metric:
        for prefix, (sentence, better) in OF_MEASURE.items():
            measure = self.measures.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if measure is not None:
                ideal = measure.ideal if better == "higher" else None
                return Metric(sentence.format(measure.meaning), measure.unit, better, ideal)
        raise KeyError(f"The metric {name!r} is not in the catalogue.")


METRICS = {name: metric for theme in THEMES.values() for name, metric in theme.items()}
BUILT_IN = Catalogue(MEASURES, METRICS)
describe = BUILT_IN.describe


def catalogue_of(config: RunConfig, strategies: Mapping[str, StrategyParts] | None = None) -> Catalogue:
    """Return what the metrics of a run mean, with those that modules of one's own declare in `METRICS`.

    Args:
        config: of the run.
        strategies: what `config.find_strategies` returned, if they have been looked up.

    Raises:
        ConfigError: a module cannot be found.
    """
    objective = load("objectives", config.objective.name, "objective")
    parts = config.find_strategies() if strategies is None else strategies
    modules = [objective, *(part.module for strategy in parts.values() for part in strategy)]
    for kind, added in (("audits", config.evaluation.audits), ("metrics", config.evaluation.metrics)):
        modules += [load(kind, named.name, f"evaluation.{kind}.{named.name}") for named in added]
    measures, metrics = dict(MEASURES), dict(METRICS)
    for module in modules:
        metrics |= _declared(module)
    measure = _measure_of(objective)
    if measure not in measures:
        measures[measure] = metrics.get(measure, Metric(f"the score {measure}", "as the score", "higher"))
    return Catalogue(measures, {name: m for name, m in metrics.items() if name not in measures})


def measure_of(objective: str) -> str:
    """Return the name of an objective's score.

    Raises:
        ConfigError: there is no such objective.
    """
    return _measure_of(load("objectives", objective, "objective"))


def own_metrics(catalogue: Catalogue) -> Catalogue:
    """Return what a catalogue has beyond the built-in metrics."""
    return Catalogue(
        {name: m for name, m in catalogue.measures.items() if name not in MEASURES},
        {name: m for name, m in catalogue.metrics.items() if name not in METRICS},
    )


def with_own(own: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Catalogue:
    """Return the built-in catalogue and what `Catalogue.to_json` returned of one's own."""
    measures, metrics = (
        {name: Metric(**metric) for name, metric in own.get(of, {}).items()} for of in ("measures", "metrics")
    )
    return Catalogue(MEASURES | measures, METRICS | metrics)


def _declared(module: ModuleType) -> dict[str, Metric]:
    declared: dict[str, Metric] = vars(module).get("METRICS", {})
    return declared


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:] if sentence[1:2].islower() else sentence
