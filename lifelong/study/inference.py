"""How a study may conclude: from a number of seeds set beforehand, at looks set beforehand, or at any time.

In all three a criterion is decided by its p-value, after the looks are allowed for and after Holm's correction over the
criteria of the study: conclusions of a study are false, any of them, with probability `LEVEL` at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lifelong.study.anytime import anytime_interval, anytime_p, least_p, radius
from lifelong.study.looks import level_of_each, over_looks
from lifelong.study.statistics import FEWEST_SEEDS, Estimate, equivalence, estimate

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Rule:
    """How a study may conclude.

    Attributes:
        looks: numbers of seeds at which it is judged, rising; none or one for a number that is set beforehand.
        anytime: seeds may be added whenever one likes; `looks` do not count then.
    """

    looks: tuple[int, ...] = ()
    anytime: bool = False

    @property
    def confidence(self) -> float:
        """Of the intervals that are shown, each for one number alone."""
        return 1 - LEVEL if self.anytime else 1 - level_of_each(self.looks, LEVEL)

    @property
    def interval(self) -> str:
        """What the intervals are, in words."""
        if self.anytime:
            return "95 % interval, valid at any number of seeds (t test of Wang and Ramdas)"
        if len(self.looks) < 2:
            return "95 % t interval"
        looks = ", ".join(map(str, self.looks))
        return f"{100 * self.confidence:.4g} % t interval (Pocock's level for looks at {looks} seeds)"

    def estimate(self, values: Sequence[float], bar: float = 0.0) -> Estimate:
        """Return the mean of `values` with its interval, and the p-value of "the mean is `bar`"."""
        fixed = estimate(values, bar, self.confidence)
        if not self.anytime or fixed.n < 2:
            return fixed
        bounds = (fixed.low, fixed.low) if fixed.low == fixed.high else anytime_interval(values, self.confidence)
        p = None if fixed.p is None else anytime_p(values, bar)
        low, high = bounds
        if low is None or high is None or not np.isfinite(high - low):
            return replace(fixed, low=None, high=None, p=p)
        return replace(fixed, low=low, high=high, p=p)

    def equivalence(self, values: Sequence[float], margin: float) -> Estimate:
        """Return the mean of `values` with its interval, and the p-value of its being within, or beyond, the margin."""
        if not self.anytime:
            return equivalence(values, margin, level_of_each(self.looks, LEVEL, sides=1))
        estimated = self.estimate(values)
        if estimated.p is None:
            return estimated
        # A mean within the margin is told from both its ends, one beyond it from the nearer.
        sides = [anytime_p(values, bar) for bar in (-margin, margin)]
        within = abs(estimated.mean) <= margin
        return replace(estimated, p=max(sides) if within else sides[int(estimated.mean > 0)])

    def over_looks(self, p: float, sides: int = 2) -> float:
        """Return a p-value that allows for the looks."""
        return p if self.anytime else over_looks(p, self.looks, sides)

    def least_p(self, seeds: int) -> float:
        """Return the smallest p-value that so many seeds can have."""
        if seeds < FEWEST_SEEDS:
            return 1.0
        return least_p(seeds) if self.anytime else 0.0

    def effect_needed(self, seeds: int, family: int) -> float:
        """Return how far a mean must lie from its bar to be decided if it alone is clear, in standard deviations.

        Args:
            seeds: that will have been run.
            family: criteria that are judged together.
        """
        level = LEVEL / family
        if seeds < FEWEST_SEEDS:
            return float("inf")
        if self.anytime:
            return radius(seeds, level) * ((seeds - 1) / seeds) ** 0.5
        from scipy.stats import t

        return float(t.isf(level_of_each(self.looks, level) / 2, seeds - 1) / np.sqrt(seeds))

    def detectable(self, values: Sequence[float], family: int) -> float:
        """Return how far the true mean must lie from its bar to be decided by four studies of five.

        Their seeds are as many, and differ by as much, as these.

        Args:
            values: one for each seed, at least `FEWEST_SEEDS`.
            family: criteria that are judged together; the other ones count as undecided.
        """
        from scipy.stats import t

        seeds = len(values)
        more = float(t.ppf(0.8, seeds - 1)) / np.sqrt(seeds)
        return float(np.std(values, ddof=1) * (self.effect_needed(seeds, family) + more))


def prospect(rule: Rule, seeds: int, family: int) -> str:
    """Say, before a study runs, what its seeds can decide.

    >>> prospect(Rule(), 2, 4)
    '4 criteria are judged together (Holm). With 2 seeds none can be decided: it takes 3 or more.'
    >>> prospect(Rule(), 3, 1)
    'With 3 seeds a number must lie 2.5 standard deviations (of one seed) from its bar to be decided.'
    """
    together = f"{family} criteria are judged together (Holm). " if family > 1 else ""
    if not family:
        return "The study declares no criteria."
    if rule.least_p(seeds) * family >= LEVEL:
        enough = next(n for n in range(FEWEST_SEEDS, 1000) if rule.least_p(n) * family < LEVEL)
        why = "" if seeds < FEWEST_SEEDS else f" (the smallest p-value is {rule.least_p(seeds) * family:.2g})"
        return f"{together}With {seeds} seeds none can be decided{why}: it takes {enough} or more."
    effect, alone = rule.effect_needed(seeds, family), rule.effect_needed(seeds, 1)
    last = f"; the last of them {alone:.2g}" if family > 1 else ""
    return (
        f"{together}With {seeds} seeds a number must lie {effect:.2g} standard deviations (of one seed) from its bar "
        f"to be decided{last}."
    )
