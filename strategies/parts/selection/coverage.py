"""Coverage-centric draw: some samples from every stratum of a score (Zheng et al. 2023, arXiv 2210.15809)."""

from __future__ import annotations

import numpy as np

from strategies.parts.selection.budgets import equal_shares
from streams.randomness import Key


def coverage_draw(
    values: np.ndarray,
    ids: np.ndarray,
    budget: int,
    key: Key,
    strata: int = 50,
    tails: tuple[float, float] = (5.0, 5.0),
) -> tuple[np.ndarray, int]:
    """Draw samples whose scores cover a band of the distribution evenly.

    Scores between two percentiles are cut into strata of equal width, the budget is shared out over those that are not
    empty, and each gives samples drawn by name. Only if the band has fewer than the budget, the excluded samples
    nearest to its middle fill it up. Whether high or low scores are hard makes no difference.

    Args:
        values: scores ``[n]``; those that are not finite count as the median of the others.
        ids: int64 ``[n]``; their order makes no difference to what is drawn.
        budget: samples to draw.
        key: names the draw.
        strata: of equal width.
        tails: percent cut off below and above; with 0 that end is kept whole.

    Returns:
        Exactly min(budget, n) positions, ascending, and how many of them lie outside the band.
    """
    budget = min(budget, len(values))
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, np.median(values[finite]) if finite.any() else 0.0)
    low, high = np.percentile(values, [tails[0], 100 - tails[1]])
    inside = ((values > low) | (tails[0] == 0)) & ((values <= high) | (tails[1] == 0))
    place = np.zeros(len(values), dtype=np.int64)
    if high > low:
        place = (np.ceil((values - low) / (high - low) * strata) - 1).clip(0, strata - 1).astype(np.int64)
    order = key.order(ids)
    order = order[inside[order]]
    present, sizes = np.unique(place[order], return_counts=True)
    drawn = [order[place[order] == s][:n] for s, n in zip(present, equal_shares(sizes, budget), strict=True)]
    drawn_positions = np.concatenate([np.array([], dtype=np.int64), *drawn])
    missing = budget - len(drawn_positions)
    if missing:
        others = np.flatnonzero(~inside)
        distance = np.abs(values[others] - (low + high) / 2)
        drawn_positions = np.concatenate(
            [drawn_positions, others[np.lexsort((key.priorities(ids[others]), distance))[:missing]]]
        )
    return np.sort(drawn_positions), missing
