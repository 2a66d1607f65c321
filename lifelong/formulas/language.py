"""Summaries of scores of text: TOFU's harmonic mean and MUSE's PrivLeak."""

from __future__ import annotations

from collections.abc import Sequence


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean; any zero makes it zero.

    >>> harmonic_mean([0.5, 0.5]), harmonic_mean([0.0, 1.0])
    (0.5, 0.0)
    """
    return 0.0 if min(values) <= 0 else float(len(values) / sum(1 / v for v in values))


def priv_leak(auc: float, reference: float) -> float | None:
    """Return MUSE's PrivLeak in percent (arXiv 2407.06460), given usual membership AUCs (1: all members are found).

    MUSE's own AUC is 1 minus the usual one. Below 0 members still stand out, above 0 they stand out as unseen.

    >>> round(priv_leak(0.9, 0.6)), priv_leak(1.0, 0.5), priv_leak(0.5, 0.5)
    (-75, -100.0, 0.0)
    """
    ours, theirs = 1 - auc, 1 - reference
    return None if theirs == 0 else 100 * (ours - theirs) / theirs
