"""What the numbers of a request are held against: doing nothing, and the noise floor of a second retraining.

A number that does not tell doing nothing from retraining says nothing about unlearning, and a strategy whose numbers
are those of doing nothing has had no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from lifelong.config.run import RunConfig, StrategyConfig
from lifelong.results.series import Series

CHANCE = 0.05
"""A model whose informedness is not above this predicts no better than a constant; one of twice as much does."""
_SECOND, _IDLE = "retrained-2", ("withheld", "original")


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Where the numbers of one model stand.

    Attributes:
        series: a strategy's table.
        model: ``run``, or one of its references.
        strategy: whose table it is.
    """

    series: Series
    model: str
    strategy: str


def tells_nothing(control: float | None, floor: float | None) -> bool:
    """Return whether a number carries no information: a control that should stand out lies within the noise.

    Args:
        control: how far a model in which nothing was unlearned is from the ideal in that number (from retraining, or of
            an attack from chance); None where that is not known, of which nothing can be said.
        floor: how far a perfect one is, by chance alone; None, like 0, where that is not known.

    >>> tells_nothing(0.02, 0.035), tells_nothing(0.2, 0.035), tells_nothing(0.0, None), tells_nothing(None, 0.1)
    (True, False, True, False)
    """
    return control is not None and control <= (floor or 0.0)


def doing_nothing(config: RunConfig, name: str, series: Mapping[str, Series]) -> Numbers | None:
    """Return what doing nothing gets with the learner of a strategy.

    That is a strategy of the run with the same learner and the unlearner `none`; where there is none, the reference
    `withheld`, for which the data merely stops coming, or else `original`, for which it does not even stop.

    Returns:
        None if the run has none of them.
    """
    strategy = config.strategies[name]
    for other, candidate in config.strategies.items():
        idle = candidate.isolated is None and candidate.guard is None and candidate.unlearner.name == "none"
        if idle and same_learner(candidate, strategy) and series[other].lived:
            return Numbers(series[other], "run", other)
    for model in _IDLE:
        if series[name].has(model):
            return Numbers(series[name], model, name)
    return None


def same_learner(one: StrategyConfig, other: StrategyConfig) -> bool:
    """Return whether two strategies learn alike, whatever they do when a request comes."""
    return (one.learner, one.isolated) == (other.learner, other.isolated)


def twin(name: str, series: Mapping[str, Series]) -> str | None:
    """Return an earlier strategy of which every score and loss of every event is this one's, to the last bit.

    Nothing is returned where no request was served, where all were served exactly (two exact answers are the same),
    and without losses, which alone have bits enough to tell.
    """
    own = series[name]
    if not own.served() or all(_exact(own)) or not own.subjects("forget_loss"):
        return None
    for other, candidate in series.items():
        if other == name:
            return None
        if candidate.lived == own.lived and candidate.measured() == own.measured():
            return other
    return None


def _exact(series: Series) -> list[float | None]:
    return [series.value("exact", name, event) for name, event in series.served().items()]


class Yardstick:
    """One strategy beside retraining, a second retraining, and doing nothing."""

    def __init__(self, config: RunConfig, name: str, series: Mapping[str, Series], measure: str) -> None:
        """Find what there is.

        Args:
            config: of the run.
            name: of the strategy.
            series: tables of all strategies of the run.
            measure: name of the score.
        """
        numbers, self._measure = series[name], measure
        self.run, self.nothing = Numbers(numbers, "run", name), doing_nothing(config, name, series)
        self.second = Numbers(numbers, _SECOND, name) if numbers.has(_SECOND) else None
        self.served = numbers.served()
        self._last = numbers.lived - 1
        self._floors: dict[str, float | None] = {}
        self._forget = (f"forget_{measure}", f"forget_test_{measure}", "forget_loss", "membership_auc", "js")

    def gap(self, numbers: Numbers | None, metric: str, request: str | None = None) -> float | None:
        """Return a model's absolute distance to retraining in a number of requests: of one, or the mean over all.

        Args:
            numbers: of which model.
            metric: a number of the forget set, ``js`` or ``relapse``.
            request: its name.
        """
        if numbers is None:
            return None
        return self._mean(partial(self._gap, numbers, metric), request)

    def why_grey(self, metric: str, request: str | None = None) -> str | None:
        """Return why a number tells nothing of a request (of all of them), or None where it does.

        The floor of a single request may be low by chance, and is at least that of all requests.
        """
        nothing = self.gap(self.nothing, metric, request)
        of_request = self.gap(self.second, metric, request) if request else None
        floors = [f for f in (of_request, self._floor(metric)) if f is not None]
        if not tells_nothing(nothing, max(floors, default=None)):
            return None
        second = f"a second retraining {max(floors):.3f}" if floors else "no second retraining was computed"
        return f"Says nothing here: doing nothing is {nothing:.3f} from retraining, {second}."

    def _floor(self, metric: str) -> float | None:
        """Return the gap of a second retraining, mean over all requests; every request is held against it."""
        if metric not in self._floors:
            self._floors[metric] = self.gap(self.second, metric)
        return self._floors[metric]

    def remark(self) -> str:
        """Return in words where a strategy did nothing to be seen, or broke the model; mostly nothing."""
        if not self.served:
            return ""
        if collapsed := [e for e in {*self.served.values(), self._last} if self._is_collapsed(e)]:
            after = [name for name, event in self.served.items() if event in collapsed]
            return f"collapsed ({', '.join(after) or 'at the end'})" if len(after) < len(self.served) else "collapsed"
        return "no effect" if self._has_no_effect() else ""

    def _is_collapsed(self, event: int) -> bool:
        """Return whether answers are as good as constant after an event, and retraining's are not.

        What is not classified is told by the score, of which constant answers get about nothing.
        """
        classified = ("informedness", "soft_informedness")
        for metric in classified if self._measure == "accuracy" else (f"retain_{self._measure}",):
            run, retrained = (self.run.series.value(metric, "stream", event, m) for m in ("run", "retrained"))
            if run is not None and retrained is not None and run <= CHANCE and retrained > 2 * CHANCE:
                return True
        return False

    def _has_no_effect(self) -> bool:
        """Return whether no number of the forget sets is farther from doing nothing than the floor."""
        if self.nothing is None or all(_exact(self.run.series)):
            return False
        within_floor = []
        for metric in self._forget:
            effect = self._mean(partial(self._effect, metric))
            if effect is not None:
                within_floor.append(tells_nothing(effect, self._floor(metric)))
        return bool(within_floor) and all(within_floor)

    def _effect(self, metric: str, request: str) -> float | None:
        assert self.nothing is not None
        return _apart(*(self._value(n, metric, request) for n in (self.run, self.nothing)))

    def _gap(self, numbers: Numbers, metric: str, request: str) -> float | None:
        value = self._value(numbers, metric, request)
        if metric == "js":
            return value
        retrained = Numbers(numbers.series, "retrained", numbers.strategy)
        return _apart(value, self._value(retrained, metric, request))

    def _value(self, numbers: Numbers, metric: str, request: str) -> float | None:
        """Return a number right after a request; `js` is to retraining, relapse the raw change until the end."""
        series, model, event = numbers.series, numbers.model, self.served[request]
        if metric == "js":
            of = ("js", "retrained") if model == "run" else ("js_to_retrained", model)
            return series.value(of[0], request, event, of[1])
        if metric != "relapse":
            return series.value(metric, request, event, model)
        forget = f"forget_{self._measure}"
        then, now = (series.value(forget, request, e, model) for e in (event, self._last))
        return None if then is None or now is None or event == self._last else now - then

    def _mean(self, of: Callable[[str], float | None], request: str | None = None) -> float | None:
        values = [of(name) for name in ([request] if request else self.served)]
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None


def _apart(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else abs(one - other)
