"""From the tables of finished runs to numbers over seeds, comparisons and verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lifelong.results.table import Row, Table
from lifelong.study.config import Cell, Comparison, Criterion, Quantity, StudyConfig, Variance
from lifelong.study.statistics import (
    Estimate,
    equivalence,
    estimate,
    floor_margin,
    holm,
    nested_variances,
    t_interval,
)

Outcome = Literal["reproduced", "contradicted", "undecided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one criterion.

    Attributes:
        name: the claim in a few words.
        outcome: reproduced (the whole interval lies beyond the bar, or within the margin), contradicted (the whole
            interval lies on the other side) or undecided.
        bar: what was asked, in words.
        estimate: the number over seeds, or None if no run has it; of a margin with a 90 % t interval.
        reason: why it is undecided, or what else to know.
    """

    name: str
    outcome: Outcome
    bar: str
    estimate: Estimate | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One comparison: a strategy against another, over paired seeds."""

    metric: str
    of: str
    minus: str
    estimate: Estimate | None
    p_corrected: float | None
    what: str = ""


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
    """

    config: StudyConfig
    tables: tuple[tuple[Cell, dict[str, Table]], ...]

    def values(self, quantity: Quantity, strategy: str) -> dict[int, float]:
        """Return a quantity of one strategy for every seed: the mean over the grid points that `where` admits."""
        return _over_points({point: v for point, (v,) in self._at_points(quantity, strategy).items()})

    def verdicts(self) -> list[Verdict]:
        """Judge every criterion."""
        return [self._judge(c) for c in self.config.criteria]

    def differences(self) -> list[Difference]:
        """Return every comparison, with p-values corrected over all of them."""
        found: list[tuple[Comparison, str, Estimate | None]] = []
        for comparison in self.config.comparisons:
            for name in comparison.of:
                paired = self._paired(comparison, name, comparison.minus, lambda a, b: a - b)
                found.append((comparison, name, estimate(list(paired.values())) if paired else None))
        corrected = holm([None if e is None else e.p for _, _, e in found])
        return [
            Difference(c.metric, name, c.minus, e, p, in_words(c))
            for (c, name, e), p in zip(found, corrected, strict=True)
        ]

    def components(self) -> list[Components]:
        """Return where the variance of every number that is asked for comes from."""
        return [self._components(v, name) for v in self.config.variances for name in v.of]

    def _components(self, asked: Variance, strategy: str) -> Components:
        found = self._at_points(asked, strategy)
        grid, seeds = self.config.grid, sorted({seed for _, seed in found})
        values = np.full((len(seeds), *(len(grid[key]) for key in asked.levels)), np.nan)
        for (point, seed), (value,) in found.items():
            at = json.loads(point)
            values[seeds.index(seed), *(grid[key].index(at[key]) for key in asked.levels)] = value
        values = values[np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
        what, levels = in_words(asked), ("seed", *asked.levels)
        if len(values) < 2:
            return Components(strategy, what, levels, reason="fewer than two seeds have a value everywhere")
        raw = nested_variances(values)
        low, high = t_interval(values.reshape(len(values), -1).mean(1).tolist())
        variances, negative = tuple(max(v, 0.0) for v in raw), tuple(v < 0 for v in raw)
        return Components(strategy, what, levels, values.shape, variances, negative, float(values.mean()), low, high)

    def _at_points(self, quantity: Quantity, *strategies: str) -> dict[tuple[str, int], tuple[float, ...]]:
        """Return the quantity of the strategies for every grid point and seed where all of them have it."""
        found: dict[tuple[str, int], dict[str, float]] = {}
        for cell, tables in self.tables:
            if any(cell.values[k] != v for k, v in quantity.where.items()):
                continue
            point = (json.dumps(cell.values, sort_keys=True), cell.seed)
            for name in strategies:
                value = _value(tables[name], quantity) if name in tables else None
                if value is not None:
                    found.setdefault(point, {})[name] = value
        return {
            point: tuple(values[name] for name in strategies)
            for point, values in found.items()
            if len(values) == len(set(strategies))
        }

    def _paired(
        self, quantity: Quantity, of: str, other: str, pair: Callable[[float, float], float]
    ) -> dict[int, float]:
        """Return a number for every seed: pairs are made at each grid point, then averaged over the points."""
        return _over_points({p: pair(a, b) for p, (a, b) in self._at_points(quantity, of, other).items()})

    def _judge(self, c: Criterion) -> Verdict:
        held = "" if other(c) is None else f" {sign_of(c)} {other(c)}"
        if c.against:
            held += f" where {', '.join(f'{k}={v}' for k, v in c.against.items())}"
        asked = f"{c.of}{held} on {in_words(c)}"
        bar = f"{asked} {_bar(c)}"
        try:
            values = self._numbers(c)
        except ValueError as error:
            return Verdict(c.name, "undecided", bar, None, str(error))
        if not values:
            return Verdict(c.name, "undecided", bar, None, self._why_nothing(c))
        if c.within is not None:
            margin = self._margin(c)
            if margin is None:
                return Verdict(c.name, "undecided", bar, None, self._why_nothing(c.second))
            bar = f"{asked} within +-{margin:.3g}" + (" (retrained-2)" if c.within == "retrained-2" else "")
            e = equivalence(values, margin)
            outcome, reason = _decide_equal(e, margin)
        else:
            e = estimate(values)
            if c.over is not None:
                low, high = (None if bound is None else math.exp(bound) for bound in (e.low, e.high))
                e = replace(e, mean=math.exp(e.mean), low=low, high=high)
            outcome, reason = _decide(c, e)
        missing = len(self.config.seeds) - e.n
        if missing > 0:
            some = f"{missing} of {len(self.config.seeds)} seeds have no value everywhere"
            reason = some if reason is None else f"{reason}; {some}"
        return Verdict(c.name, outcome, bar, e, reason)

    def _numbers(self, c: Criterion) -> list[float]:
        """Return the number that is judged for every seed; of ratios the logarithm."""
        if c.against:
            own, base = self.values(c, c.of), self.values(c.other, c.minus or c.over or c.of)
            pair = _difference if c.over is None else _log_ratio
            return [pair(own[seed], base[seed]) for seed in own if seed in base]
        if c.over is not None:
            return list(self._paired(c, c.of, c.over, _log_ratio).values())
        if c.minus is not None:
            return list(self._paired(c, c.of, c.minus, _difference).values())
        return list(self.values(c, c.of).values())

    def _margin(self, c: Criterion) -> float | None:
        """Return what counts as nothing; None where it is to be that of two retrained models and there are not two."""
        if c.within != "retrained-2":
            return c.within
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


def other(c: Criterion) -> str | None:
    """Return the strategy that a criterion compares with."""
    return c.minus or c.over


def sign_of(c: Criterion) -> str:
    """Return how it compares."""
    return "-" if c.minus else "/"


def in_words(quantity: Quantity) -> str:
    """Return which number of a run a quantity is.

    >>> in_words(Quantity(metric="js", subject="requests", model="retrained", reduce="max"))
    'max of js (retrained) of requests'
    """
    what = quantity.metric if quantity.model == "run" else f"{quantity.metric} ({quantity.model})"
    if quantity.subject != "stream":
        what += f" of {quantity.subject}"
    if quantity.reduce != "one":
        what = f"{quantity.reduce} of {what}"
    if quantity.event != "last":
        until = "at" if quantity.reduce == "one" else "until"
        what += f" {until} {quantity.event if isinstance(quantity.event, str) else f'event {quantity.event}'}"
    if quantity.where:
        what += f" where {', '.join(f'{k}={v}' for k, v in quantity.where.items())}"
    return what


def _difference(a: float, b: float) -> float:
    return a - b


def _log_ratio(a: float, b: float) -> float:
    if a <= 0 or b <= 0:
        raise ValueError("a ratio needs positive values")
    return math.log(a / b)


def _over_points(values: dict[tuple[str, int], float]) -> dict[int, float]:
    """Return the mean over grid points for every seed that has all points that any seed has, in the seeds' order."""
    points = {point for point, _ in values}
    seeds = sorted({seed for _, seed in values})
    return {s: sum(values[p, s] for p in points) / len(points) for s in seeds if all((p, s) in values for p in points)}


def _bar(c: Criterion) -> str:
    if c.within is not None:
        return f"within {c.within}"
    return f"> {c.above:g}" if c.above is not None else f"< {c.below:g}"


def _decide(c: Criterion, e: Estimate) -> tuple[Outcome, str | None]:
    if e.low is None or e.high is None:
        return "undecided", "one seed gives no interval"
    if c.above is not None:
        beyond, short = e.low > c.above, e.high <= c.above
    else:
        assert c.below is not None
        beyond, short = e.high < c.below, e.low >= c.below
    if beyond:
        return "reproduced", None
    if short:
        return "contradicted", None
    return "undecided", "the interval spans the bar"


def _decide_equal(e: Estimate, margin: float) -> tuple[Outcome, str | None]:
    if e.low is None or e.high is None:
        return "undecided", "one seed gives no interval"
    how = f"90 % t interval, p = {e.p:.2g}"
    if -margin <= e.low and e.high <= margin:
        return "reproduced", how
    if e.low > margin or e.high < -margin:
        return "contradicted", how
    return "undecided", f"the interval spans the margin; {how}"


def _value(table: Table, quantity: Quantity) -> float | None:
    """Return a quantity of one table, or None where it is undefined."""
    rows = [r for r in table.select(quantity.metric, quantity.subject, quantity.model) if r.value is not None]
    if quantity.event != "last":
        event = _event(table, quantity.event)
        rows = [r for r in rows if event is not None and (r.event == event or _reduced_until(quantity, r, event))]
    if not rows:
        return None
    numbers = [r.value for r in rows if r.value is not None]
    match quantity.reduce:
        case "one":
            return max(rows, key=lambda r: r.event).value
        case "mean":
            return sum(numbers) / len(numbers)
        case "sum":
            return sum(numbers)
        case "max":
            return max(numbers)
        case "min":
            return min(numbers)


def _reduced_until(quantity: Quantity, r: Row, event: int) -> bool:
    return quantity.reduce != "one" and r.event <= event


def _event(table: Table, event: int | str) -> int | None:
    """Return an event's index; a request's is where it was served."""
    if isinstance(event, int):
        return event
    return next((r.event for r in table.select("exact", event)), None)
