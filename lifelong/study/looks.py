"""Judging at several looks: the level of each, so that all together err as seldom as one would (Pocock 1977).

Pocock's boundary has the same nominal level at every look. It is that of Student's t here: what is known of the
variance grows from look to look as well, so that the usual boundary, of a normal statistic, would err too often (5.3 %
instead of 5 % with 5, 10 and 20 seeds). The law of the smallest p-value is simulated with a fixed seed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_DRAWS = 400_000
"""Of which the rate of errors at a level of 5 % is known to 0.07 % (two standard errors)."""
_RARE = 2e-3
"""Below that nominal level the looks' errors are added up (Bonferroni), which is nearly exact there."""


def level_of_each(looks: tuple[int, ...], level: float = 0.05, sides: int = 2) -> float:
    """Return the nominal level at which to test at every look, so that some look rejects falsely at `level` only.

    Args:
        looks: numbers of seeds, rising.
        level: of all looks together.
        sides: of the test.

    >>> level_of_each((5,)), 0.019 < level_of_each((5, 10, 20)) < 0.020
    (0.05, True)
    """
    if len(looks) < 2:
        return level
    if level < over_looks(_RARE, looks, sides):
        return level / len(looks)
    return max(level / len(looks), float(_smallest(looks, sides)[int(level * _DRAWS)]))


def over_looks(p: float, looks: tuple[int, ...], sides: int = 2) -> float:
    """Return how probable it is, under the null hypothesis, that any of the looks has a p-value as small as `p`.

    >>> over_looks(0.03, (5,)), 0.07 < over_looks(0.03, (5, 10, 20)) < 0.09
    (0.03, True)
    """
    if len(looks) < 2:
        return p
    smallest = _smallest(looks, sides)
    rate = float(np.searchsorted(smallest, max(p, _RARE), side="right") / len(smallest))
    return min(p * len(looks), rate)


@lru_cache(maxsize=16)
def _smallest(looks: tuple[int, ...], sides: int) -> np.ndarray:
    """Return the smallest p-value over the looks in simulated studies without an effect, sorted.

    Only the sum and the squares of what each look adds are drawn: they are independent, normal and chi-squared.
    """
    from scipy.stats import t

    draw = np.random.default_rng(0)
    total, squares, smallest, before = np.zeros(_DRAWS), np.zeros(_DRAWS), np.ones(_DRAWS), 0
    for seeds in looks:
        new = seeds - before
        added = np.sqrt(new) * draw.standard_normal(_DRAWS)
        squares += added**2 / new + (draw.chisquare(new - 1, _DRAWS) if new > 1 else 0.0)
        total += added
        error = np.sqrt((squares - total**2 / seeds) / (seeds - 1) * seeds)
        statistic = np.abs(total) / error if sides == 2 else total / error
        smallest = np.minimum(smallest, sides * t.sf(statistic, seeds - 1))
        before = seeds
    smallest.sort()
    smallest.flags.writeable = False
    return smallest
