"""Which number shows that an attack can find anything: the same attack where nothing has been forgotten yet.

An attack that is at chance after a request says nothing where it was at chance before it as well. Reports show such
numbers grey.
"""

from __future__ import annotations

from collections.abc import Iterable

LEVEL = 0.05
"""A control whose p-value is above this, over the number of requests, is at chance."""

_U_LIRA = ("auc", "low", "high", "p", "accuracy", "tpr_1", "tpr_01")
_RMIA = ("auc", "low", "high", "p", "tpr_1")
CONTROLS: dict[str, str] = {
    **{f"ulira_{part}": "lira_p" for part in _U_LIRA},
    **{f"rmia_{part}": "rmia_before_p" for part in _RMIA},
}
"""For what an attack finds, the p-value of its control, which stands at the event of the request."""


def control_of(metric: str) -> str | None:
    """Return the p-value of the control of an attack, or None: it has no control, or is no attack.

    >>> control_of("ulira_auc"), control_of("final_rmia_auc"), control_of("js")
    ('lira_p', 'rmia_before_p', None)
    """
    return CONTROLS.get(metric.removeprefix("immediate_").removeprefix("final_"))


def is_at_chance(p_values: Iterable[float | None]) -> bool:
    """Return whether the control of an attack is at chance at all requests, given its p-value at each.

    None stands for one that is not known. Where no p-value is known, nothing shows that the attack works.

    >>> is_at_chance([0.4, 0.005]), is_at_chance([0.4, 0.03]), is_at_chance([])
    (False, True, True)
    """
    known = [p for p in p_values if p is not None]
    return not known or min(known) > LEVEL / len(known)
