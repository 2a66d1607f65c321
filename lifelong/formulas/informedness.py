"""How much a classifier's predictions say about the class: 0 for one that answers the same whatever it is shown."""

from __future__ import annotations

import numpy as np


def informedness(shares: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the mean over classes of `shares`, rescaled so that constant answers get 0 and perfect ones 1.

    Of k classes, (sum over classes of the mean share - 1) / (k - 1): with shares of 0 and 1 the balanced accuracy
    corrected for chance, for two classes Youden's J (Powers, arXiv 2010.16061). Whoever predicts one distribution for
    all samples has shares that add up to at most 1 over the classes, whichever distribution it is; a classifier that
    is worse than that gets less than 0.

    Args:
        shares: ``[n]`` probability given to the true class, or 1 where it is predicted and 0 elsewhere.
        classes: ``[n]`` true classes.
        groups: ``[n]``; only classes of one group compete (tasks, where outputs are masked by the task). The result is
            the mean over groups of two classes or more.

    Returns:
        At most 1; None where no group has two classes.

    >>> informedness(np.array([0.7, 0.7, 0.3]), np.array([0, 0, 1]), np.zeros(3))
    0.0
    >>> informedness(np.array([1.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]), np.zeros(4))
    0.5
    """
    by_group = []
    for group in np.unique(groups):
        here = groups == group
        names, which = np.unique(classes[here], return_inverse=True)
        if len(names) > 1:
            means = np.bincount(which, weights=shares[here]) / np.bincount(which)
            by_group.append((means.sum() - 1) / (len(names) - 1))
    return float(np.mean(by_group)) if by_group else None
