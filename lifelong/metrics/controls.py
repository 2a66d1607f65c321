"""Which number shows that an attack can find anything: the same attack where nothing has been forgotten yet.

An attack that is at chance after a request says nothing where it was at chance before it as well. Reports show such
numbers grey.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

LEVEL = 0.05
"""A control whose p-value is above this is at chance."""

CONTROLS = {"ulira_auc": "lira_p", "rmia_auc": "rmia_before_p"}
"""For what an attack finds, the p-value of its control, which stands at the event of the request."""


def is_at_chance(p_values: Iterable[float | None]) -> bool:
    """Return whether the control of an attack is at chance, given its p-value at every request.

    Twice the median of p-values is one of them all, whatever they depend on (Rueger 1978). None stands for one that is
    not known; where none is known, nothing shows that the attack works.

    >>> is_at_chance([0.04]), is_at_chance([0.005, 0.02, 0.7]), is_at_chance([0.04, 0.3, 0.7]), is_at_chance([None])
    (False, False, True, True)
    """
    known = [p for p in p_values if p is not None]
    return not known or median(known) * min(len(known), 2) > LEVEL
