"""A stream in which one request was never made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streams.events import DeletionRequest, Event, Request
from streams.members import Members
from streams.source import copy_groups
from streams.stream import Stream
from streams.timeline import admitted


def without_request(stream: Stream, until: int, name: str, copies: bool = False) -> tuple[Event, ...]:
    """Return the first `until` events of `stream` as they arrive, as if the request `name` had never been served.

    Later requests for a class, task or user are resolved again: what the skipped one would have deleted before them is
    still there, and theirs. What it kept from arriving, or from recurring, stays away all the same, and what is learned
    again is what the stream says.

    Args:
        stream: of the run.
        until: number of events.
        name: of a request among them.
        copies: whether requests cover copies of what they name.
    """
    events = admitted(stream.events[:until])
    at = next(i for i, e in enumerate(events) if e.name == name and isinstance(e, DeletionRequest))
    left = events[at].sample_ids
    groups = copy_groups(stream.source) if copies else None
    members = Members(stream.source, len(stream.units), stream.experiences)
    result = list(events[:at])
    for event in events[at + 1 :]:
        if isinstance(event, DeletionRequest):
            requests = []
            for request in event.requests:
                named = left[_is_named(members, request, left, groups)]
                left = np.setdiff1d(left, named)
                requests.append(replace(request, sample_ids=np.union1d(request.sample_ids, named)))
            event = replace(event, requests=tuple(requests))
        elif event.incarnation:
            left = np.setdiff1d(left, event.sample_ids)  # alive in the stream, too: its later requests see them
        result.append(event)
    return tuple(result)


def _is_named(members: Members, request: Request, ids: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return, bool ``[n]``, which of `ids` a request stands for by class, task or user; single samples it names."""
    if request.scope == "sample" or not len(ids):
        return np.zeros(len(ids), dtype=bool)
    named = members.of(request.scope, request.keys)
    return np.isin(ids, named) if groups is None else np.isin(groups[ids], groups[named])
