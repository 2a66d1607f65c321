"""Requests survived: how many requests a model lives through before it can be told from one that was retrained.

Three things end it, at the first moment with references at which one of them is seen:

- retained: the score on retained data lies more than `RETAINED` below the retrained model's, and further below than
  two retrained models lie apart at that moment under any seed (early on, little is retained to be measured on);
- gap: the score on what some request deleted differs from the retrained model's by more than the noise floor;
- attack: a membership attack tells a request's data from unseen data better than chance, and its control works.

The noise floor of a scope is the largest gap between two retrained models at any moment and under any seed. Under S
seeds that are alike, a further retraining would be stopped by it with probability 1 / (S + 1) at most: of all seeds,
its own must hold the largest gap. Chance is the largest strength of the attack on a retrained model, in the same way. A
95 % quantile of single gaps, which is what a study takes, would stop perfect answers after some twenty looks.

The control of an attack is a model from which nothing was ever deleted: the attack must be stronger on it than on
retrained ones, by a one-sided t test over seeds at 5 %. Of fewer than three seeds no control is known to work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lifelong.bench.evidence import Life, OfScope
from lifelong.study.statistics import FEWEST_SEEDS, estimate

RETAINED = 0.05
"""How far the score on retained data may lie below the retrained model's."""
_LEVEL = 0.05

End = Literal["retained", "gap", "attack", "diverged", "nothing"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a life; floors and chances by scope of requests.

    Attributes:
        retained: how far the score on retained data may lie below the retrained model's, by requests served.
        floors: largest gap on forgotten data that retraining explains.
        chances: largest strength of the attack that chance explains; only of scopes in which its control works.
    """

    retained: dict[int, float]
    floors: dict[str, float]
    chances: dict[str, float]


@dataclass(frozen=True, slots=True)
class Survival:
    """How long one life lasted.

    Attributes:
        requests: served at the last moment before the end; all where nothing ended it.
        end: what did.
        scope: of the requests at which it showed, or nothing.
    """

    requests: int
    end: End
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Mean:
    """A number over seeds.

    Attributes:
        value: its mean.
        low, high: 95 % t interval; None for one seed.
        n: seeds that have the number.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Headline:
    """What all lives of a strategy came to.

    Attributes:
        survived: requests survived, by seed.
        ends: how many lives each thing has ended.
        mean: of the requests survived: the geometric mean of 1 + requests, minus 1, as moments lie apart by a factor.
        limits: what they were held to.
        numbers: means of what stands beside the headline, None where no seed has it.
    """

    survived: tuple[int, ...]
    ends: dict[str, int]
    mean: Mean
    limits: Limits
    numbers: dict[str, Mean | None]


def limits_of(lives: Sequence[Life]) -> Limits:
    """Return the noise floors, and what chance explains where the control of the attack works."""
    by_scope: dict[str, list[OfScope]] = {}
    controls: dict[str, list[float]] = {}
    retained: dict[int, float] = {}
    for life in lives:
        own: dict[str, list[float]] = {}
        for moment in life.moments:
            allowed = max(retained.get(moment.request, RETAINED), moment.retained_floor or 0.0)
            retained[moment.request] = allowed
            for scope, found in moment.scopes.items():
                by_scope.setdefault(scope, []).append(found)
                if found.control is not None:
                    own.setdefault(scope, []).append(found.control)
        for scope, values in own.items():
            controls.setdefault(scope, []).append(sum(values) / len(values))
    floors = {scope: max(f.floor for f in found) for scope, found in by_scope.items()}
    chances = {s: max(f.chance for f in by_scope[s] if f.chance is not None) for s, v in controls.items() if works(v)}
    return Limits(retained, floors, chances)


def works(controls: Sequence[float]) -> bool:
    """Return whether an attack's control works: its mean over seeds is above 0.

    >>> works([0.1, 0.2, 0.15]), works([0.1, -0.1, 0.02]), works([0.1, 0.1])
    (True, False, False)
    """
    if len(controls) < FEWEST_SEEDS:
        return False
    e = estimate(controls)
    return e.p is not None and e.mean > 0 and e.p / 2 <= _LEVEL


def survival(life: Life, limits: Limits) -> Survival:
    """Return how long a life lasted."""
    if life.diverged is not None:
        return Survival(0, "diverged")
    survived = 0
    for moment in life.moments:
        if moment.retained is not None and moment.retained < -limits.retained[moment.request]:
            return Survival(survived, "retained")
        for scope, found in moment.scopes.items():
            if found.gap > limits.floors[scope]:
                return Survival(survived, "gap", scope)
        for scope, found in moment.scopes.items():
            if scope in limits.chances and found.attack is not None and found.attack > limits.chances[scope]:
                return Survival(survived, "attack", scope)
        survived = moment.request
    return Survival(survived, "nothing")


def mean_survived(survived: Sequence[int]) -> Mean:
    """Return the geometric mean of 1 + requests, minus 1, with the interval that Student's t has on a log scale.

    >>> mean_survived([1, 3, 7]).value
    3.0
    """
    e = estimate([math.log1p(n) for n in survived])
    low = None if e.low is None else max(0.0, math.expm1(e.low))
    high = None if e.high is None else math.expm1(e.high)
    return Mean(round(math.expm1(e.mean), 6), low, high, e.n)


def headline(lives: Sequence[Life]) -> Headline:
    """Return what all lives of a strategy came to."""
    limits = limits_of(lives)
    survivals = [survival(life, limits) for life in lives]
    ends: dict[str, int] = {}
    for one in survivals:
        key = f"{one.end} ({one.scope})" if one.scope else one.end
        ends[key] = ends.get(key, 0) + 1
    survived = tuple(one.requests for one in survivals)
    return Headline(survived, ends, mean_survived(survived), limits, numbers_of(lives))


def numbers_of(lives: Sequence[Life]) -> dict[str, Mean | None]:
    """Return the means over seeds of what stands beside the headline."""
    result: dict[str, Mean | None] = {}
    for name in ("accumulation", "forgetting", "relapse", "cost", "state_bytes"):
        values = [v for life in lives if (v := getattr(life.numbers, name)) is not None]
        e = estimate(values) if values else None
        result[name] = None if e is None else Mean(e.mean, e.low, e.high, e.n)
    return result
