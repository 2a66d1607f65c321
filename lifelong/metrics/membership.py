"""Membership attack by loss threshold: tell the deleted training samples from unseen ones."""

from __future__ import annotations

import numpy as np


def membership_auc(
    member_losses: np.ndarray,
    member_classes: np.ndarray,
    other_losses: np.ndarray,
    other_classes: np.ndarray,
) -> float | None:
    """Return the AUC of "lower loss means member", with non-members weighted to the members' class mix.

    The class mix must agree, or the attack detects the class instead of membership. 0.5 is no leak; below 0.5 the
    members stand out by *high* loss, which leaks as well. The value means little by itself: compare it with that of
    the retrained reference.

    Args:
        member_losses: ``[n]`` losses of the forget set.
        member_classes: int ``[n]``.
        other_losses: ``[m]`` losses of unseen samples.
        other_classes: int ``[m]``.

    Returns:
        A float in [0, 1], or None if a class of the members has no unseen sample.

    >>> membership_auc(np.array([0.1, 0.2]), np.array([0, 0]), np.array([0.3, 0.15]), np.array([0, 0]))
    0.75
    """
    classes, counts = np.unique(member_classes, return_counts=True)
    weights = np.zeros(len(other_losses))
    for c, count in zip(classes, counts, strict=True):
        same = other_classes == c
        if not same.any():
            return None
        weights[same] = count / same.sum()
    if not len(classes):
        return None
    order = np.argsort(other_losses, kind="stable")
    sorted_losses, cumulative = other_losses[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    below = cumulative[np.searchsorted(sorted_losses, member_losses, side="left")]
    below_or_equal = cumulative[np.searchsorted(sorted_losses, member_losses, side="right")]
    # P(other > member) + P(equal) / 2
    return float(1 - np.mean((below + below_or_equal) / 2) / cumulative[-1])
