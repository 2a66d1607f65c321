"""The table of several seeds of one run: means with intervals, grouped by what the strategies were allowed to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lifelong.execution.runner import Run
from lifelong.report.columns import Cell, Column, Kind, columns, shown
from lifelong.report.summary import UNFINISHED, Line, measure_of, summarize
from lifelong.study.statistics import t_interval

INTERVAL = "mean over seeds, give or take half of its 95 % interval (Student's t); a number in brackets has fewer seeds"


@dataclass(frozen=True, slots=True)
class Mean:
    """A number over seeds.

    Attributes:
        value: the mean of the seeds that have one; None if none has.
        half: half of the 95 % interval of the mean; None of fewer than two seeds.
        seeds: that have a value.
        reason: why no seed has one.
    """

    value: float | None
    half: float | None
    seeds: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class StrategyMeans:
    """One strategy over seeds, its numbers in the order of `columns`.

    Attributes:
        access: what it was allowed to read.
        seeds: in which it has finished.
        remark: what most seeds say in words, and in how many of them.
    """

    strategy: str
    access: str
    seeds: int
    means: tuple[Mean, ...]
    remark: str


def over_seeds(runs: Sequence[Run]) -> tuple[tuple[Column, ...], list[StrategyMeans]]:
    """Return the heads of the table, and every strategy that has finished under at least one seed."""
    heads = columns(measure_of(runs[0])) if runs else ()
    lines: dict[tuple[str, str], list[Line]] = {}
    for run in runs:
        for group in summarize(run):
            for line in group.lines:
                if group.access != UNFINISHED:
                    lines.setdefault((group.access, line.strategy), []).append(line)
    return heads, [
        StrategyMeans(
            strategy,
            access,
            len(same),
            tuple(_mean([line.cells[place] for line in same]) for place in range(len(heads))),
            _remark([line.remark for line in same]),
        )
        for (access, strategy), same in sorted(lines.items(), key=lambda item: item[0][0])
    ]


def in_words(mean: Mean, kind: Kind, seeds: int) -> str:
    """Return a mean as text.

    >>> in_words(Mean(0.5, 0.01, 16), "score", 16), in_words(Mean(0.5, None, 1), "score", 16)
    ('0.500 ± 0.010', '0.500 (1)')
    """
    text = shown(Cell(mean.value), kind)
    if mean.half is not None:
        text += f" ± {shown(Cell(mean.half), kind).lstrip('+')}"
    return text if mean.seeds in {0, seeds} else f"{text} ({mean.seeds})"


def _mean(cells: Sequence[Cell]) -> Mean:
    values = [cell.value for cell in cells if cell.value is not None]
    if not values:
        return Mean(None, None, 0, next((cell.reason for cell in cells if cell.reason), None))
    if len(values) == 1:
        return Mean(values[0], None, 1)
    low, high = t_interval(values)
    return Mean(sum(values) / len(values), (high - low) / 2, len(values))


def _remark(remarks: Sequence[str]) -> str:
    ((remark, count),) = Counter(remarks).most_common(1)
    return f"{remark} ({count} of {len(remarks)})" if remark else ""
