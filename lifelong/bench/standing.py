"""Where strategies stand among those with the same access: in places as wide as the noise, and on fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lifelong.bench.headline import Headline, Mean, headline
from lifelong.bench.submission import Submission
from lifelong.study.statistics import estimate, holm

LEVEL = 0.05
GOOD = {"requests": 1, "accumulation": 1, "forgetting": -1, "relapse": -1, "cost": -1, "state_bytes": -1}
"""What a front is about, and whether more (1) or less (-1) of it is better."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One strategy among those with its access.

    Attributes:
        submission: of the strategy.
        headline: what its lives came to.
        first, last: the places that it may have: behind all that survive more requests than noise explains, and before
            all that survive fewer.
        tied: strategies that noise cannot tell from it.
        on_front: whether no other is at least as good in all numbers, and better in one (of means).
    """

    submission: Submission
    headline: Headline
    first: int
    last: int
    tied: tuple[str, ...]
    on_front: bool

    @property
    def place(self) -> str:
        """Return its place as text.

        >>> from types import SimpleNamespace
        >>> Standing.place.fget(SimpleNamespace(first=2, last=4)), Standing.place.fget(SimpleNamespace(first=1, last=1))
        ('2 to 4', '1')
        """
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def standings(submissions: Sequence[Submission]) -> dict[str, list[Standing]]:
    """Return for every access those who have it, those that survive the most requests first.

    Two strategies are told apart by a paired t test over their common seeds of log(1 + requests survived), at 5 % after
    Holm's correction over all others that one is compared with. What cannot be told apart is tied, whatever the means.
    """
    groups: dict[str, list[Submission]] = {}
    for submission in submissions:
        groups.setdefault(submission.access, []).append(submission)
    return {access: _rank(group) for access, group in sorted(groups.items())}


def _rank(group: list[Submission]) -> list[Standing]:
    heads = [headline(s.lives) for s in group]
    fronts = front([_goods(h) for h in heads])
    ranked = []
    for i, submission in enumerate(group):
        others = [j for j in range(len(group)) if j != i]
        pairs = [_compare((submission, heads[i]), (group[j], heads[j])) for j in others]
        corrected = holm([p for _, p in pairs])
        told = [p is not None and p <= LEVEL for p in corrected]
        worse = sum(is_told and mean > 0 for is_told, (mean, _) in zip(told, pairs, strict=True))
        better = sum(is_told and mean < 0 for is_told, (mean, _) in zip(told, pairs, strict=True))
        tied = tuple(group[j].strategy for j, is_told in zip(others, told, strict=True) if not is_told)
        ranked.append(Standing(submission, heads[i], 1 + better, len(group) - worse, tied, fronts[i]))
    return sorted(ranked, key=lambda s: (-s.headline.mean.value, s.submission.strategy))


def _compare(one: tuple[Submission, Headline], other: tuple[Submission, Headline]) -> tuple[float, float | None]:
    """Return the mean difference on a log scale, and its p-value; None where common seeds are too few to tell."""
    by_seed = [dict(zip((life.seed for life in s.lives), h.survived, strict=True)) for s, h in (one, other)]
    common = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not common:
        return 0.0, None
    e = estimate([math.log1p(by_seed[0][seed]) - math.log1p(by_seed[1][seed]) for seed in common])
    return e.mean, e.p


def _goods(one: Headline) -> tuple[float, ...]:
    """Return the numbers of a front, more is better; what is undefined is as bad as can be."""
    means: dict[str, Mean | None] = {"requests": one.mean, **one.numbers}
    return tuple(sign * m.value if (m := means[name]) is not None else -math.inf for name, sign in GOOD.items())


def front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Return which points no other is at least as good as in everything, and better in something; more is better.

    >>> front([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 0.0)])
    [True, True, False, True]
    """

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return [not any(beats(other, point) for other in points) for point in points]
