"""Which earlier requests are measured at which evaluation, and what samples are looked at for that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lifelong.config.run import Follow
from lifelong.evaluation.plan import RequestPlan


# Why: docs/decisions.md#a-request-may-be-looked-at-ever-more-rarely
def numbers_followed(
    requests: Sequence[RequestPlan], measured: np.ndarray, follow: Follow
) -> dict[int, tuple[int, ...]] | None:
    """Return for each event that is evaluated the numbers of the requests measured there, ascending; None for all.

    Every request is measured when it is served and after the last event. In between, `geometric` measures it at the
    first evaluation after 1, 2, 4, 8 ... more events, and a number measures that many latest requests.

    Args:
        requests: in order.
        measured: bool ``[E]``.
        follow: what a configuration asks for.
    """
    if follow == "all":
        return None
    events = np.flatnonzero(measured)
    followed: dict[int, set[int]] = {int(event): set() for event in events}
    for number, request in enumerate(requests):
        if follow == "geometric":
            ages = 2 ** np.arange(max(len(measured) - 1 - request.event, 1).bit_length())
            later = events[np.searchsorted(events, np.minimum(request.event + ages, len(measured) - 1))]
        else:
            until = requests[number + follow].event if number + follow < len(requests) else len(measured)
            later = events[(events > request.event) & (events < until)]
        for event in (request.event, *later.tolist(), len(measured) - 1):
            followed[event].add(number)
    return {event: tuple(sorted(numbers)) for event, numbers in followed.items()}


def numbers_looked_at(
    requests: Sequence[RequestPlan], followed: dict[int, tuple[int, ...]], again: np.ndarray
) -> dict[int, tuple[int, ...]]:
    """Return the numbers of `numbers_followed`, and those of all earlier requests where these are measured `again`.

    What is measured in detail has to be looked at, whoever is followed.

    Args:
        requests: in order.
        followed: of `numbers_followed`.
        again: bool ``[E]``; see `EvaluationPlan`.
    """
    looked_at = dict(followed)
    for event in (e for e in followed if again[e]):
        due = {n for n, r in enumerate(requests) if r.event <= event < r.until}
        looked_at[event] = tuple(sorted(due.union(followed[event])))
    return looked_at


def extra_positions(
    requests: Sequence[RequestPlan], followed: dict[int, tuple[int, ...]], always: np.ndarray
) -> dict[int, np.ndarray]:
    """Return for each event that is evaluated the positions looked at there beside those that `always` are.

    They are the forget sets of the requests that are measured there, and of the one that is served next: its losses
    just before are kept.
    """
    served_at = {request.event: number for number, request in enumerate(requests)}
    size = 1 + max([int(always[-1]) if len(always) else -1, *(int(request.forget.max()) for request in requests)])
    is_other = np.ones(size, dtype=bool)
    is_other[always] = False
    extra: dict[int, np.ndarray] = {}
    for event, numbers in followed.items():
        coming = [served_at[event + 1]] if event + 1 in served_at else []
        parts = [requests[number].forget for number in (*numbers, *coming)]
        chosen = np.unique(np.concatenate([always[:0], *parts]))
        extra[event] = chosen[is_other[chosen]]
    return extra
