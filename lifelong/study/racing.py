"""The race among trials of one strategy: who is stopped, who is run again, and who is chosen.

As in F-Race (Birattari et al. 2002), with the median in place of a test: a trial that is worse on the first seeds than
the median of all is not run on the others. The best ones are run again on new seeds, beside the strategy as it is
written, and these decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from lifelong.study.tune import Information

ENOUGH = 4
"""Trials on the same seeds before their median says anything."""
NEAR = 0.1
"""A trial is near the best if its goal is worse by no more than that share of the best one's size."""

State = Literal["running", "finished", "pruned", "diverged"]


@dataclass(slots=True)
class Trial:
    """One setting and what came of it.

    Attributes:
        number: 0 is the strategy as it is written.
        options: values by key.
        losses: the parts of the goal on every search seed that it came to; lower is better.
        confirmed: the same on the seeds of the confirmation, if it came so far.
        state: finished on all search seeds, pruned before the last, or diverged.
        seconds: that its strategy acted, in all runs.
        passes: samples passed backward to serve requests, in all runs.
    """

    number: int
    options: dict[str, Any]
    losses: list[tuple[float, ...]] = field(default_factory=list)
    confirmed: list[tuple[float, ...]] = field(default_factory=list)
    state: State = "running"
    seconds: float = 0.0
    passes: float = 0.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """What the search of one strategy came to.

    Attributes:
        strategy: as the study calls it.
        information: what the goal could read.
        trials: all of them.
        chosen: number of the trial that was chosen; 0 leaves the strategy as it is written.
        options: its values.
        searched, confirmed: its goal on the seeds of the search and of the confirmation, summed over its parts; None
            where there is none.
        best_searched: the best goal on the seeds of the search: what one would report who does not confirm.
        default: the goal of the strategy as it is written, on the seeds of the confirmation (or of the search).
        near: share of all trials that come within a tenth of the best on the search seeds. Near 1: the options hardly
            matter; near 0: they must be hit.
        near_ranges: for every option the least and the highest value (or all values) of these.
        seconds, passes: of all its trials.
        note: what else to know.
    """

    strategy: str
    information: Information
    trials: tuple[Trial, ...]
    chosen: int
    options: dict[str, Any]
    searched: float | None
    confirmed: float | None
    best_searched: float | None
    default: float | None
    near: float
    near_ranges: dict[str, list[Any]]
    seconds: float
    passes: float
    note: str = ""

    @property
    def name(self) -> str:
        """What the tuned strategy is called in the study."""
        return tuned_name(self.strategy, self.information)

    def count(self, state: State) -> int:
        """Return how many trials ended so."""
        return sum(t.state == state for t in self.trials)


def tuned_name(strategy: str, information: Information) -> str:
    """Return what a tuned strategy is called in the study.

    >>> tuned_name("ssd", "oracle")
    'ssd+oracle'
    """
    return f"{strategy}+{information}"


def mean(vectors: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the mean of what seeds came to, of every part of the goal.

    >>> mean([(1.0, 4.0), (3.0, 0.0)])
    (2.0, 2.0)
    """
    return tuple(fmean(column) for column in zip(*vectors, strict=True))


def prune(trials: Sequence[Trial], seeds: int) -> None:
    """Stop trials that are worse on the first so many seeds than the median of all, in every part of the goal.

    The strategy as it is written goes on in any case.
    """
    means = {t.number: mean(t.losses[:seeds]) for t in trials if len(t.losses) >= seeds}
    if len(means) < ENOUGH:
        return
    middle = [median(column) for column in zip(*means.values(), strict=True)]
    for t in trials:
        if t.state == "running" and t.number and all(x > m for x, m in zip(means[t.number], middle, strict=True)):
            t.state = "pruned"


def ranked(trials: Sequence[Trial], of: Callable[[Trial], Sequence[tuple[float, ...]]]) -> list[Trial]:
    """Return trials from the best to the worst; of several parts by the distance to the best of every part.

    Parts are scaled to their range over the trials. Those that no other beats in every part come first.
    """
    means = {t.number: mean(of(t)) for t in trials}
    if not means:
        return []
    columns = list(zip(*means.values(), strict=True))
    low, high = [min(c) for c in columns], [max(c) for c in columns]

    def distance(number: int) -> tuple[bool, float]:
        mine = means[number]
        if len(mine) == 1:
            return False, mine[0]
        beaten = any(
            all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for other in means.values()
        )
        scaled = [(m - a) / (b - a) if b > a else 0.0 for m, a, b in zip(mine, low, high, strict=True)]
        return beaten, math.hypot(*scaled)

    return sorted(trials, key=lambda t: (*distance(t.number), t.number))


def conclude(
    strategy: str, information: Information, trials: Sequence[Trial], again: Sequence[Trial], confirms: bool
) -> Tuned:
    """Choose among the trials that were confirmed, or, if there is no confirmation, among all that finished."""
    written = trials[0]
    finished = [t for t in trials if t.losses and t.state == "finished"]
    candidates = [t for t in again if t.state != "diverged"] if confirms else finished
    order = ranked(candidates, (lambda t: t.confirmed) if confirms else (lambda t: t.losses))
    chosen = order[0] if order else written
    search = {t.number: sum(mean(t.losses)) for t in finished}
    best = min(search.values(), default=None)
    near = [] if best is None else [t for t in finished if search[t.number] <= best + NEAR * abs(best)]
    note = ""
    if not order:
        note = "all trials diverged; the options stay as they are written"
    elif written.state == "diverged":
        note = "as it is written, it diverged"
    elif chosen is written:
        note = "no trial was better than the options as they are written"
    default = written.confirmed if confirms else written.losses
    return Tuned(
        strategy,
        information,
        tuple(trials),
        chosen.number,
        dict(chosen.options) if order else {},
        _total(chosen.losses),
        _total(chosen.confirmed),
        best,
        None if written.state == "diverged" else _total(default),
        len(near) / len(trials),
        {key: _spanned([t.options[key] for t in near]) for key in written.options} if near else {},
        sum(t.seconds for t in trials),
        sum(t.passes for t in trials),
        note,
    )


def _total(vectors: Sequence[tuple[float, ...]]) -> float | None:
    return sum(mean(vectors)) if vectors else None


def _spanned(values: Sequence[Any]) -> list[Any]:
    """Return the least and the highest of numbers, or all other values.

    >>> _spanned([3, 1, 2]), _spanned(["a", "b", "a"])
    ([1, 3], ['a', 'b'])
    """
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return [min(values), max(values)]
    return list(dict.fromkeys(values))
