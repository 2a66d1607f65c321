"""Algebra of event sequences: what arrives alive, and what a life without the forgotten data would have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from streams.events import DeletionRequest, Event, Experience


def surviving(events: Sequence[Event]) -> tuple[Experience, ...]:
    """Return the learn events that a life without the forgotten data would have had.

    Every incarnation that `events` forgets is taken out of the experience that taught it; deleted samples that a
    later experience would merely repeat stay out; an experience left with nothing disappears. This is the stream of
    the retrained reference.
    """
    size = 1 + max((int(e.sample_ids[-1]) for e in events if len(e.sample_ids)), default=0)
    forgotten_later = np.zeros(size, dtype=bool)
    experiences: list[Experience] = []
    for event in reversed(admitted(events)):
        ids = event.sample_ids
        if isinstance(event, DeletionRequest):
            forgotten_later[ids] = True
        elif not forgotten_later[ids].all():
            experiences.append(with_ids(event, ids[~forgotten_later[ids]]))
    return tuple(reversed(experiences))


def admitted(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return `events` with every experience reduced to the samples that are not deleted when it arrives.

    An experience that is left with nothing disappears.
    """
    size = 1 + max((int(e.sample_ids[-1]) for e in events if len(e.sample_ids)), default=0)
    dead = np.zeros(size, dtype=bool)
    result: list[Event] = []
    for event in events:
        ids = event.sample_ids
        if isinstance(event, DeletionRequest):
            dead[ids] = True
            dead[event.barred_ids[event.barred_ids < size]] = True
        elif event.incarnation:
            dead[ids] = False
        else:
            event = with_ids(event, ids[~dead[ids]])
        if len(event.sample_ids):
            result.append(event)
    return tuple(result)


def with_ids(experience: Experience, ids: np.ndarray) -> Experience:
    """Return `experience` with other samples; the same object if they are the same."""
    if len(ids) == len(experience.sample_ids):
        return experience
    return replace(experience, sample_ids=ids)
