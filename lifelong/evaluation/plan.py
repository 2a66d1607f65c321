"""On what a strategy is measured, after every event."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lifelong.evaluation.changes import Changes
from streams.events import DeletionRequest
from streams.positions import positions_in


@dataclass(frozen=True, eq=False)
class RequestPlan:
    """What one request is measured on, as positions into `EvaluationPlan.ids`.

    Attributes:
        deletion: the request.
        event: index of the event that serves it.
        forget: training samples it deletes.
        forget_test: test samples of the classes, tasks or users it names; empty for samples.
        non_members: test samples of the forget set's classes, for membership attacks.
        forget_until: int64, for every one of `forget` the index of the first event that learns it again, or the number
            of events.
        forget_test_until: the same of `forget_test`: where any of the forget set in its class is learned again.
        non_members_until: the same of `non_members`: where all of the forget set in its class is learned again.
    """

    deletion: DeletionRequest
    event: int
    forget: np.ndarray
    forget_test: np.ndarray
    non_members: np.ndarray
    forget_until: np.ndarray
    forget_test_until: np.ndarray
    non_members_until: np.ndarray

    @property
    def name(self) -> str:
        """Name of the request."""
        return self.deletion.name

    @functools.cached_property
    def until(self) -> int:
        """Index of the first event after which nothing of the forget set is deleted any more."""
        return int(self.forget_until.max())

    @functools.cached_property
    def whole_until(self) -> int:
        """Index of the first event that learns any of the forget set again, or the number of events."""
        return int(self.forget_until.min())

    def at(self, event: int) -> RequestPlan:
        """Return what is left of the request after `event`: without what has been learned again by then."""
        if self.whole_until > event:
            return self
        parts: dict[str, np.ndarray] = {}
        for name in ("forget", "forget_test", "non_members"):
            positions, until = getattr(self, name), getattr(self, f"{name}_until")
            parts |= {name: positions[until > event], f"{name}_until": until[until > event]}
        return RequestPlan(self.deletion, self.event, **parts)

    @property
    def detailed(self) -> np.ndarray:
        """Positions whose predicted distributions and features are compared with the references'."""
        return np.union1d(self.forget, self.forget_test)


@dataclass(frozen=True, slots=True, eq=False)
class Damage:
    """Where manipulated data shows, as positions into `EvaluationPlan.ids`.

    Attributes:
        samples: the manipulated training samples.
        live: after every event, bool ``[len(samples)]``: learned and not deleted by then.
        affected, unaffected, attack: test rows; see `streams.source.Corruption`.
    """

    samples: np.ndarray
    live: Changes
    affected: np.ndarray
    unaffected: np.ndarray
    attack: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationPlan:
    """Every sample that is ever evaluated, each once, and what it counts for.

    Attributes:
        ids: int64 ``[N]`` sample ids, ascending: all units' test samples, all forget sets, the probe.
        classes: int64 ``[N]`` class of each.
        unit_of: int64 ``[M]``, position_of: int64 ``[M]``: the pairs (unit, position) that make up the units' test
            sets; a sample may count for several units.
        num_units: number of units.
        alive: after every event, bool ``[N]``: whether a test sample still counts, because neither its class nor its
            task is deleted at that time.
        since: after every event, int64 ``[U]``: event at which the present incarnation of the unit was first learned,
            -1 if the unit is not learned, or deleted as a whole.
        seen: after every event, bool ``[U]``: whether the unit was learned at all by then.
        probe: positions of the training samples that measure retained accuracy.
        probe_live: after every event, bool ``[len(probe)]``: learned and not deleted by then.
        requests: what each request is measured on.
        measured: bool ``[E]``: whether there is an evaluation after event e.
        watched: bool ``[E]``: whether there are evaluations within event e, too.
        classes_held: after every event, bool ``[C]``: classes of the units that are held.
        damage: where manipulated data shows, or None if there is none.
        retained: positions of a few samples of the probe that are measured in detail, where measurements want that.
        averaged: records of measurements that are averaged over the forget sets of requests, and why there may be no
            mean.
        follows_requests: whether a measurement follows every request on, and the model from before the first.
        again: bool ``[E]``: whether every earlier request is measured in detail again after event e.
        audited: bool ``[E]``: whether audits are made where requests are looked at after event e.
        numbers: by event that is evaluated, the numbers of the requests measured there; None: of all until then.
        always: positions that are looked at in every evaluation, ascending.
        extra: by event that is evaluated, the positions that are looked at beside those; None: all there are.
        seed: of what attacks draw.
        tests_are_non_members: whether attacks by records hold a request against test samples, for want of others.
    """

    ids: np.ndarray
    classes: np.ndarray
    unit_of: np.ndarray
    position_of: np.ndarray
    num_units: int
    alive: Changes
    since: Changes
    seen: Changes
    probe: np.ndarray
    probe_live: Changes
    requests: tuple[RequestPlan, ...]
    measured: np.ndarray
    watched: np.ndarray
    classes_held: Changes
    retained: np.ndarray
    averaged: dict[str, str]
    follows_requests: bool
    again: np.ndarray
    audited: np.ndarray
    numbers: dict[int, tuple[int, ...]] | None
    always: np.ndarray
    extra: dict[int, np.ndarray] | None
    seed: int = 0
    tests_are_non_members: bool = False
    damage: Damage | None = None

    def num_outputs(self, event: int) -> int:
        """Return how many evaluations there are up to and with `event`, that of the initial model being the first."""
        return 1 + int(self.measured[: event + 1].sum())

    def looked_at(self, event: int | None) -> np.ndarray | None:
        """Return the positions that are looked at after `event` (None: in the initial model), or None for all."""
        if self.extra is None:
            return None
        return self.always if event is None else np.concatenate([self.always, self.extra[event]])

    def looked_at_each(self) -> Iterator[np.ndarray | None]:
        """Yield the same for every evaluation, that of the initial model being the first."""
        yield self.looked_at(None)
        for event in np.flatnonzero(self.measured).tolist():
            yield self.looked_at(event)

    def served_at(self, event: int) -> RequestPlan | None:
        """Return the request that `event` serves, or None."""
        place = bisect_left(self.requests, event, key=lambda request: request.event)
        return self.requests[place] if place < len(self.requests) and self.requests[place].event == event else None

    def deleted(self, event: int) -> dict[int, RequestPlan]:
        """Return by number what is left of every request that was served by `event` and of which anything is deleted.

        A sample that has been learned again is out of the request that deleted it, and the others stay in.
        """
        return self._left(range(len(self.requests)), event)

    def followed(self, event: int) -> dict[int, RequestPlan]:
        """Return those of them that are measured after `event`, which is one that is evaluated."""
        return self.deleted(event) if self.numbers is None else self._left(self.numbers[event], event)

    def _left(self, numbers: Iterable[int], event: int) -> dict[int, RequestPlan]:
        requests = ((n, self.requests[n]) for n in numbers)
        return {n: r.at(event) for n, r in requests if r.event <= event < r.until}

    def due(self, event: int) -> tuple[RequestPlan, ...]:
        """Return what is measured in detail after `event`: the request it serves, and those measured `again`.

        What has been learned again by then is left out.
        """
        if self.again[event]:
            chosen = [r for r in self.requests if r.event == event or r.event < event < r.until]
        else:
            served = self.served_at(event)
            chosen = [] if served is None else [served]
        return tuple(r.at(event) for r in chosen)

    def starts_requests(self, event: int) -> bool:
        """Return whether the first request comes right after `event`, and a measurement follows requests from there."""
        return self.follows_requests and bool(self.requests) and self.requests[0].event == event + 1

    def detailed(self, event: int) -> np.ndarray:
        """Return the positions whose distributions, features and records are kept after `event`, ascending."""
        due = self.due(event)
        chosen = [r.detailed for r in due]
        if self.tests_are_non_members:
            chosen += [r.non_members for r in due]
        is_last = event == len(self.alive) - 1
        if chosen or (self.follows_requests and is_last) or self.starts_requests(event):
            chosen.append(self.retained)
        return np.unique(np.concatenate(chosen)) if chosen else np.array([], dtype=np.int64)

    def live(self, event: int) -> np.ndarray:
        """Return positions of the probe's samples that are learned and not deleted after `event`."""
        return self.probe[self.probe_live[event]]

    def live_retained(self, event: int) -> np.ndarray:
        """Return which of `retained` are learned and not deleted after `event`."""
        return self.retained[self.probe_live[event][positions_in(self.probe, self.retained)]]

    def counting_tests(self, event: int) -> np.ndarray:
        """Return the test samples that count after `event`: of units that are held, neither class nor task deleted."""
        positions = self.position_of[self.since[event][self.unit_of] >= 0]
        return np.unique(positions[self.alive[event][positions]])

    def kept_questions(self, event: int) -> np.ndarray:
        """Return positions of test samples, of units that are held, about nobody whose data is deleted."""
        gone = [r.forget_test for r in self.deleted(event).values()]
        return np.setdiff1d(self.counting_tests(event), np.concatenate([*gone, self.position_of[:0]]))
