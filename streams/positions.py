"""From ids to positions: where samples stand in a sorted list of others."""

from __future__ import annotations

import numpy as np


def positions_in(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return where each of `values` stands in `ascending`, int64 of the shape of `values`.

    >>> positions_in(np.array([2, 5, 7]), np.array([7, 2])).tolist()
    [2, 0]

    Args:
        ascending: without repetition.
        values: each of them one of `ascending`, in any order.

    Raises:
        ValueError: one is not there. `np.searchsorted` would return the position of another.
    """
    positions = np.searchsorted(ascending, values)
    present = positions < len(ascending)
    present[present] = ascending[positions[present]] == values[present]
    if not present.all():
        missing = values[~present]
        raise ValueError(
            f"{len(missing)} of {values.size} values are not among the {len(ascending)} they are looked "
            f"up in; the first is {missing[0]}."
        )
    return positions
