"""Advice below the table of a run: what its numbers cannot tell, and what to change so that they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lifelong.execution.runner import Run
from lifelong.report.summary import measure_of
from lifelong.report.yardstick import CHANCE, same_learner
from lifelong.results.series import Series, indexed

FORGETS = 0.2
"""A learner that has lost this much of what it had first learned, without having been asked, forgets by itself."""

_REMEDY = " A memory helps (learner: replay); so may a tuned strength."


def advice(run: Run, series: Mapping[str, Series] | None = None) -> list[str]:
    """Return what a newcomer should know before the numbers of a run are believed; mostly nothing.

    Args:
        run: the run.
        series: its tables, if they are indexed already.
    """
    every = indexed(run.tables) if series is None else series
    series = {name: numbers for name, numbers in every.items() if name in run.summaries}
    measure = measure_of(run)
    lost = {name: _lost(numbers, measure) or 0.0 for name, numbers in series.items()}
    forgetful = {name: fall for name, fall in lost.items() if fall >= FORGETS}
    # Who has forgotten all but the last is at chance as well, and had learned.
    guessing = [name for name, numbers in series.items() if name not in forgetful and _guesses(numbers)]
    said = []
    if guessing:
        known = any(series[name].has("retrained") for name in guessing)
        also = ", and so does the model retrained without deleted data" if known else ""
        said.append(
            f"At the end {_listed(guessing)} {'answers' if len(guessing) == 1 else 'answer'} no better than "
            f"chance{also}: the stream is not learned, and nothing can be said of unlearning. Raise training.epochs or "
            f"training.lr, or take a larger model."
        )
    for names in _by_learner(run, list(forgetful)):
        most, verb = max(forgetful[name] for name in names), "forgets" if len(names) == 1 else "forget"
        said.append(
            f"{_listed(names)} {verb} without being asked: {most:.2f} of {measure.replace('_', ' ')} is lost since "
            f"each unit was first learned. That deleted data is not known later says little about unlearning there."
            f"{'' if run.config.strategies[names[0]].isolated else _REMEDY}"
        )
    return said


def _guesses(numbers: Series) -> bool:
    """Return whether answers are at chance at the end, and those of retraining, where they are known."""
    end = numbers.lived - 1
    own, retrained = (numbers.value("informedness", "stream", end, model) for model in ("run", "retrained"))
    return own is not None and own <= CHANCE and (retrained is None or retrained <= CHANCE)


def _lost(numbers: Series, measure: str) -> float | None:
    """Return the mean fall of a score since units were first learned; None of what falls in other units."""
    if measure != "accuracy":
        return None
    return numbers.value("forgetting_from_first", "stream", numbers.lived - 1)


def _by_learner(run: Run, names: Sequence[str]) -> list[list[str]]:
    """Return strategies, those that learn alike together."""
    groups: list[list[str]] = []
    for name in names:
        config = run.config.strategies
        alike = next((g for g in groups if same_learner(config[g[0]], config[name])), None)
        if alike is None:
            groups.append([name])
        else:
            alike.append(name)
    return groups


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
