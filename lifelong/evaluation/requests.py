"""Work out on what every request is measured, and until when."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from lifelong.evaluation.plan import RequestPlan
from streams.events import DeletionRequest, Experience
from streams.positions import positions_in
from streams.stream import Stream


def plan_requests(stream: Stream, ids: np.ndarray) -> tuple[RequestPlan, ...]:
    """Return the plan of every request, in order.

    Args:
        stream: what is lived through.
        ids: int64 ``[N]``, ascending: what is evaluated.
    """
    places, again = _Places(stream, ids), _Again(stream)
    plans = []
    for index, event in enumerate(stream.events):
        if isinstance(event, DeletionRequest):
            forget, until = positions_in(ids, event.sample_ids), again.until(index, event.sample_ids)
            plans.append(places.plan(index, event, forget, until))
    return tuple(plans)


class _Again:
    """When samples are learned again after they were deleted."""

    def __init__(self, stream: Stream) -> None:
        self._num_events = len(stream.events)
        self._events: dict[int, list[int]] = {}  # by sample, ascending
        for index, event in enumerate(stream.events):
            if isinstance(event, Experience) and event.incarnation:
                for sample in event.sample_ids.tolist():
                    self._events.setdefault(sample, []).append(index)

    def until(self, served: int, sample_ids: np.ndarray) -> np.ndarray:
        """Return for each of `sample_ids` the first event after `served` that learns it again, or their number."""
        until = np.full(len(sample_ids), self._num_events)
        if self._events:
            for place, sample in enumerate(sample_ids.tolist()):
                events = self._events.get(sample, ())
                later = bisect_right(events, served)
                until[place] = events[later] if later < len(events) else self._num_events
        return until


@dataclass(frozen=True, slots=True, eq=False)
class _Unseen:
    """Test samples of some classes, shared by all requests for these, and until when if nothing comes back."""

    positions: np.ndarray
    until: np.ndarray


class _Places:
    """Where the samples are that requests are measured on."""

    def __init__(self, stream: Stream, ids: np.ndarray) -> None:
        source = stream.source
        self._stream, self._ids = stream, ids
        self._classes, self._users = source.class_ids[ids], source.user_ids[ids]
        self._tests = np.zeros(len(ids), dtype=bool)
        self._tests[positions_in(ids, np.unique(np.concatenate([u.test_ids for u in stream.units])))] = True
        self._unseen: dict[tuple[int, ...], _Unseen] = {}

    def plan(self, index: int, event: DeletionRequest, forget: np.ndarray, until: np.ndarray) -> RequestPlan:
        """Return what the request that is served at `index` is measured on."""
        num_events = len(self._stream.events)
        forget_test, unseen = self._named_tests(event), self._unseen_of(forget)
        if (until == num_events).all():
            forget_test_until, unseen_until = np.full(len(forget_test), num_events), unseen.until
        else:
            first = np.full(self._stream.source.num_classes, num_events)
            np.minimum.at(first, self._classes[forget], until)
            last = np.zeros(self._stream.source.num_classes, dtype=np.int64)
            np.maximum.at(last, self._classes[forget], until)
            forget_test_until, unseen_until = first[self._classes[forget_test]], last[self._classes[unseen.positions]]
        return RequestPlan(
            deletion=event,
            event=index,
            forget=forget,
            forget_test=forget_test,
            non_members=unseen.positions,
            forget_until=until,
            forget_test_until=forget_test_until,
            non_members_until=unseen_until,
        )

    def _named_tests(self, event: DeletionRequest) -> np.ndarray:
        """Return test samples of the classes, tasks or users that are named."""
        classes, users, tasks = event.keys_of("class"), event.keys_of("user"), event.keys_of("task")
        if not classes and not users and not tasks:
            return np.array([], dtype=np.int64)
        named = np.isin(self._classes, classes) | np.isin(self._users, users)
        for unit in tasks:
            named[positions_in(self._ids, self._stream.units[unit].test_ids)] = True
        return np.flatnonzero(named & self._tests)

    def _unseen_of(self, forget: np.ndarray) -> _Unseen:
        """Return the test samples of the classes of `forget`."""
        classes = tuple(np.unique(self._classes[forget]).tolist())
        if classes not in self._unseen:
            positions = np.flatnonzero(self._tests & np.isin(self._classes, classes))
            self._unseen[classes] = _Unseen(positions, np.full(len(positions), len(self._stream.events)))
        return self._unseen[classes]
