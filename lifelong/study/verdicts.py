"""From the tables of finished runs to numbers over seeds, comparisons and verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lifelong.study.config import Cell, Comparison, Criterion, Quantity, StudyConfig
from lifelong.study.statistics import Estimate, estimate, holm
from lifelong.table import Row, Table

Outcome = Literal["reproduced", "contradicted", "undecided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one criterion.

    Attributes:
        name: the claim in a few words.
        outcome: reproduced (the whole interval lies beyond the bar), contradicted (the whole interval lies on the
            other side) or undecided.
        bar: what was asked, in words.
        estimate: the number over seeds, or None if no run has it.
        reason: why it is undecided.
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


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """What a study has so far.

    Attributes:
        config: the study.
        tables: for every run on disk its cell and its tables by strategy.
    """

    config: StudyConfig
    tables: tuple[tuple[Cell, dict[str, Table]], ...]

    def frame(self) -> dict[str, list[object]]:
        """Return a tidy table as columns: grid keys, seed, strategy, and the columns of `Row`."""
        columns: dict[str, list[object]] = {}
        for cell, tables in self.tables:
            for strategy, table in tables.items():
                given: dict[str, object] = {**cell.values, "seed": cell.seed, "strategy": strategy}
                for key, value in given.items():
                    columns.setdefault(key, []).extend([value] * len(table.rows))
                for key, values in table.frame().items():
                    columns.setdefault(key, []).extend(values)
        return columns

    def values(self, quantity: Quantity, strategy: str) -> dict[int, float]:
        """Return a quantity of one strategy for every seed: the mean over the grid points that `where` admits."""
        found: dict[int, list[float]] = {}
        for cell, tables in self.tables:
            table = tables.get(strategy)
            admitted = all(cell.values[k] == v for k, v in quantity.where.items())
            value = None if table is None or not admitted else _value(table, quantity)
            if value is not None:
                found.setdefault(cell.seed, []).append(value)
        return {seed: sum(v) / len(v) for seed, v in found.items()}

    def verdicts(self) -> list[Verdict]:
        """Judge every criterion."""
        return [self._judge(c) for c in self.config.criteria]

    def differences(self) -> list[Difference]:
        """Return every comparison, with p-values corrected over all of them."""
        found: list[tuple[Comparison, str, Estimate | None]] = []
        for comparison in self.config.comparisons:
            base = self.values(comparison, comparison.minus)
            for name in comparison.of:
                own = self.values(comparison, name)
                paired = [own[s] - base[s] for s in sorted(own.keys() & base.keys())]
                found.append((comparison, name, estimate(paired) if paired else None))
        corrected = holm([None if e is None else e.p for _, _, e in found])
        return [Difference(c.metric, name, c.minus, e, p) for (c, name, e), p in zip(found, corrected, strict=True)]

    def _judge(self, c: Criterion) -> Verdict:
        other = c.minus or c.over
        own = self.values(c, c.of)
        base = self.values(c, other) if other else dict.fromkeys(own, 0.0)
        seeds = sorted(own.keys() & base.keys())
        bar = _in_words(c)
        if not seeds:
            return Verdict(c.name, "undecided", bar, None, "no finished run has a value")
        if c.over is not None:
            if any(own[s] <= 0 or base[s] <= 0 for s in seeds):
                return Verdict(c.name, "undecided", bar, None, "a ratio needs positive values")
            logs = estimate([math.log(own[s] / base[s]) for s in seeds])
            e = Estimate(
                math.exp(logs.mean),
                None if logs.low is None else math.exp(logs.low),
                None if logs.high is None else math.exp(logs.high),
                logs.p,
                logs.n,
            )
        else:
            e = estimate([own[s] - base[s] for s in seeds])
        return Verdict(c.name, *_decide(c, e, bar))


def _decide(c: Criterion, e: Estimate, bar: str) -> tuple[Outcome, str, Estimate, str | None]:
    if e.low is None or e.high is None:
        return "undecided", bar, e, "one seed gives no interval"
    beyond, short = (
        (e.low > c.above, e.high <= c.above)
        if c.above is not None
        else (e.high < (c.below or 0.0), e.low >= (c.below or 0.0))
    )
    if beyond:
        return "reproduced", bar, e, None
    if short:
        return "contradicted", bar, e, None
    return "undecided", bar, e, "the interval spans the bar"


def _in_words(c: Criterion) -> str:
    what = c.metric if c.model == "run" else f"{c.metric} ({c.model})"
    if c.subject != "stream":
        what += f" of {c.subject}"
    if c.reduce != "one":
        what = f"{c.reduce} of {what}"
    if c.event != "last":
        what += f" at event {c.event}"
    left = c.of if not (c.minus or c.over) else f"{c.of} {'-' if c.minus else '/'} {c.minus or c.over}"
    sign, value = (">", c.above) if c.above is not None else ("<", c.below)
    return f"{left} on {what} {sign} {value:g}"


def _value(table: Table, quantity: Quantity) -> float | None:
    """Return a quantity of one table, or None where it is undefined."""
    rows = [r for r in table.select(quantity.metric, quantity.subject, quantity.model) if r.value is not None]
    if quantity.event != "last":
        rows = [
            r for r in rows if (r.event == quantity.event if quantity.reduce == "one" else r.event <= quantity.event)
        ]
    if not rows:
        return None
    numbers = [r.value for r in rows if r.value is not None]
    match quantity.reduce:
        case "one":
            return max(rows, key=_event_of).value
        case "mean":
            return sum(numbers) / len(numbers)
        case "sum":
            return sum(numbers)
        case "max":
            return max(numbers)
        case "min":
            return min(numbers)


def _event_of(r: Row) -> int:
    return r.event
