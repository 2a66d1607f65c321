"""From the tables of finished runs to numbers over seeds, comparisons and verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lifelong.results.table import Table
from lifelong.study.checks import asked
from lifelong.study.config import Cell, Criterion, StudyConfig, Variance
from lifelong.study.inference import Rule
from lifelong.study.judging import (
    Difference,
    Evidence,
    Outcome,
    Verdict,
    blocked_by,
    corrected,
    judge,
    judge_gates,
)
from lifelong.study.quantities import Quantity, in_words, over_points, rows_of, value_of
from lifelong.study.seeds import all_seeds, rule_of
from lifelong.study.statistics import floor_margin, nested_variances, t_interval
from streams.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Components:
    """Where the variance of a number comes from, in a balanced nested design.

    Attributes:
        of: the strategy.
        what: the number, in words.
        levels: seed, and the keys of the grid below it.
        counts: values of each level.
        variances: what each level adds; 0 where the estimate was negative.
        negative: whether it was.
        mean: of all.
        low, high: 95 % t interval of the mean, from the means of the seeds: what is drawn anew under one seed is not
            independent.
        reason: why there are none.
    """

    of: str
    what: str
    levels: tuple[str, ...]
    counts: tuple[int, ...] = ()
    variances: tuple[float, ...] = ()
    negative: tuple[bool, ...] = ()
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """The levels' shares of the variance of one number."""
        whole = sum(self.variances)
        return tuple(v / whole if whole else 0.0 for v in self.variances)


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """What a study has so far.

    Attributes:
        config: the study.
        tables: for every run on disk its cell and its tables by strategy.
        rule: how the study may conclude; None takes what its seeds say.
        seeds: that there should be by now; None for all.
    """

    config: StudyConfig
    tables: tuple[tuple[Cell, dict[str, Table]], ...]
    rule: Rule | None = None
    seeds: tuple[int, ...] | None = None

    def check(self) -> None:
        """Refuse what a finished run says nothing about, so that nobody waits for a number that cannot come.

        Raises:
            ConfigError: names the key, the strategy and the number.
        """
        for where, quantity, strategies in asked(self.config):
            for cell, tables in self.tables:
                if any(cell.values[k] != v for k, v in quantity.where.items()):
                    continue
                for name in strategies:
                    if name in tables and not rows_of(tables[name], quantity):
                        raise ConfigError(
                            f"{where}: a run of {name} is finished and has no {in_words(quantity)}. Take it out or "
                            f"name another number (docs/metrics.md); what is finished is not computed again."
                        )

    def values(self, quantity: Quantity, strategy: str) -> dict[int, float]:
        """Return a quantity of one strategy for every seed: the mean over the grid points that `where` admits."""
        return over_points({point: v for point, (v,) in self._at_points(quantity, strategy).items()})

    def validity(self) -> list[Verdict]:
        """Judge what must hold for the criteria to be testable."""
        return judge_gates([self._evidence(gate) for gate in self.config.validity], self._rule)

    def verdicts(self) -> list[Verdict]:
        """Judge every criterion."""
        blocked: dict[str, tuple[Outcome, str]] = {}
        for gate, verdict in zip(self.config.validity, self.validity(), strict=True):
            if (why := blocked_by(verdict)) is not None:
                blocked |= dict.fromkeys(gate.criteria or [c.name for c in self.config.criteria], why)
        return judge([self._evidence(c) for c in self.config.criteria], self._rule, blocked)

    def differences(self) -> list[Difference]:
        """Return every comparison, with p-values corrected over all of them."""
        differences: list[Difference] = []
        for comparison in self.config.comparisons:
            for name in comparison.of:
                paired = self._paired(comparison, name, comparison.minus, _difference)
                e = self._rule.estimate(paired.numbers) if paired.numbers else None
                quantity = in_words(comparison)
                differences.append(
                    Difference(
                        comparison.metric,
                        name,
                        comparison.minus,
                        e,
                        None,
                        quantity,
                        paired.sides,
                        tuple(paired.numbers),
                    )
                )
        return corrected(differences, self._rule)

    @property
    def _rule(self) -> Rule:
        return rule_of(self.config.seeds) if self.rule is None else self.rule

    def components(self) -> list[Components]:
        """Return where the variance of every number that is asked for comes from."""
        return [self._components(v, name) for v in self.config.variances for name in v.of]

    def _components(self, variance: Variance, strategy: str) -> Components:
        by_point = self._at_points(variance, strategy)
        grid, seeds = self.config.grid, sorted({seed for _, seed in by_point})
        values = np.full((len(seeds), *(len(grid[key]) for key in variance.levels)), np.nan)
        for (point, seed), (value,) in by_point.items():
            at = json.loads(point)
            values[seeds.index(seed), *(grid[key].index(at[key]) for key in variance.levels)] = value
        values = values[np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
        quantity, levels = in_words(variance), ("seed", *variance.levels)
        if len(values) < 2:
            return Components(strategy, quantity, levels, reason="fewer than two seeds have a value everywhere")
        raw = nested_variances(values)
        low, high = t_interval(values.reshape(len(values), -1).mean(1).tolist())
        variances, negative = tuple(max(v, 0.0) for v in raw), tuple(v < 0 for v in raw)
        return Components(
            strategy, quantity, levels, values.shape, variances, negative, float(values.mean()), low, high
        )

    def _at_points(self, quantity: Quantity, *strategies: str) -> dict[tuple[str, int], tuple[float, ...]]:
        """Return the quantity of the strategies for every grid point and seed where all of them have it."""
        by_point: dict[tuple[str, int], dict[str, float]] = {}
        for cell, tables in self.tables:
            if any(cell.values[k] != v for k, v in quantity.where.items()):
                continue
            point = (json.dumps(cell.values, sort_keys=True), cell.seed)
            for name in strategies:
                value = value_of(tables[name], quantity) if name in tables else None
                if value is not None:
                    by_point.setdefault(point, {})[name] = value
        return {
            point: tuple(values[name] for name in strategies)
            for point, values in by_point.items()
            if len(values) == len(set(strategies))
        }

    def _paired(self, quantity: Quantity, of: str, other: str, pair: Callable[[float, float], float]) -> _Paired:
        """Return a number for every seed: pairs are made at each grid point, then averaged over the points."""
        points = self._at_points(quantity, of, other)
        return _Paired(
            over_points({p: pair(a, b) for p, (a, b) in points.items()}),
            over_points({p: a for p, (a, _) in points.items()}),
            over_points({p: b for p, (_, b) in points.items()}),
        )

    def _evidence(self, c: Criterion) -> Evidence:
        """Return what a criterion is judged by."""
        against = "" if other(c) is None else f" {sign_of(c)} {other(c)}"
        if c.against:
            against += f" where {', '.join(f'{k}={v}' for k, v in c.against.items())}"
        expected = all_seeds(self.config.seeds) if self.seeds is None else self.seeds
        e = Evidence(
            c.name,
            f"{c.of}{against} on {in_words(c)}",
            test_of(c),
            _bar(c),
            (),
            ratio=c.over is not None,
            floor=c.within == "retrained-2",
            seeds=len(expected),
        )
        try:
            paired = self._numbers(c)
        except ValueError as error:
            return replace(e, missing=str(error))
        if not paired.by_seed:
            return replace(e, missing=self._why_nothing(c))
        numbers = paired.numbers if c.over is None else [math.exp(x) for x in paired.numbers]
        e = replace(e, values=tuple(numbers), sides=paired.sides, not_testable=self._at_chance(c, paired))
        if c.within != "retrained-2":
            return e
        margin = self._floor(c)
        return replace(e, bar=margin, missing=None if margin is not None else self._why_nothing(c.second))

    def _numbers(self, c: Criterion) -> _Paired:
        """Return the number that is judged for every seed, of ratios the logarithm, and both sides of a comparison."""
        pair = _difference if c.over is None else _log_ratio
        strategy = other(c)
        if strategy is None:
            return _Paired(self.values(c, c.of), {}, {})
        if not c.against:
            return self._paired(c, c.of, strategy, pair)
        first, second = self.values(c, c.of), self.values(c.other, strategy)
        both = {seed: pair(first[seed], second[seed]) for seed in first if seed in second}
        return _Paired(both, {s: first[s] for s in both}, {s: second[s] for s in both})

    def _at_chance(self, c: Criterion, paired: _Paired) -> str | None:
        """Say so if nothing that is compared is above guessing, or joint training is not."""
        if c.chance is None:
            return None
        chance = 0.0 if c.above_chance else c.chance
        if (
            paired.of
            and not self._above_chance(paired.of.values(), chance)
            and not self._above_chance(paired.other.values(), chance)
        ):
            return f"neither side is above chance ({c.chance:g})"
        joint = self.values(c.model_copy(update={"model": "joint"}), c.of)
        if joint and not self._above_chance(joint.values(), chance):
            return f"joint training is not above chance ({c.chance:g})"
        return None

    def _above_chance(self, scores: Iterable[float], chance: float) -> bool:
        """Whether the interval of a score over seeds lies above chance; of too few seeds whether the mean does."""
        estimated = self._rule.estimate(list(scores))
        return (estimated.mean if estimated.p is None or estimated.low is None else estimated.low) > chance

    def _floor(self, c: Criterion) -> float | None:
        """Return what one retraining differs from another, or None if there are not two retrained models."""
        first, second = self.values(c, c.of), self.values(c.second, c.of)
        floor = [first[seed] - second[seed] for seed in first if seed in second]
        return floor_margin(floor) if floor else None

    def _why_nothing(self, c: Criterion) -> str:
        tables = [t[c.of] for _, t in self.tables if c.of in t]
        if not tables:
            return "no run of it is finished"
        subjects = {r.subject for t in tables for r in t.select(c.metric, model=c.model)}
        if not subjects:
            return f"no run has {c.metric} ({c.model})"
        if c.subject not in subjects:
            return f"it is not there for the subject {c.subject!r}, but for {', '.join(sorted(subjects)[:6])}"
        reasons = [r.reason for t in tables for r in t.select(c.metric, c.subject, c.model) if r.reason]
        return f"no finished run has a value{f': {reasons[-1]}' if reasons else ''}"


@dataclass(frozen=True, slots=True)
class _Paired:
    """A number for every seed, and what it is the difference or the ratio of."""

    by_seed: dict[int, float]
    of: dict[int, float]
    other: dict[int, float]

    @property
    def numbers(self) -> list[float]:
        return list(self.by_seed.values())

    @property
    def sides(self) -> tuple[float, float] | None:
        """Means of both sides."""
        if not self.of:
            return None
        return sum(self.of.values()) / len(self.of), sum(self.other.values()) / len(self.other)


def other(c: Criterion) -> str | None:
    """Return the strategy that a criterion compares with."""
    return c.minus or c.over


def sign_of(c: Criterion) -> str:
    """Return how it compares."""
    return "-" if c.minus else "/"


def _difference(a: float, b: float) -> float:
    return a - b


def _log_ratio(a: float, b: float) -> float:
    if a <= 0 or b <= 0:
        raise ValueError("a ratio needs positive values")
    return math.log(a / b)


def test_of(c: Criterion) -> Literal["above", "below", "within"]:
    """Return what the number must be."""
    if c.within is not None:
        return "within"
    return "above" if c.above is not None else "below"


def _bar(c: Criterion) -> float | None:
    """Return the bar as the study states it; None where runs tell it."""
    if c.within is not None:
        return None if c.within == "retrained-2" else c.within
    return c.above if c.above is not None else c.below
