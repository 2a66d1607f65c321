"""On what a strategy is measured, after every event: worked out before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lifelong.config.run import EvaluationConfig
from strategies.measurement import Measurement
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.positions import positions_in
from streams.randomness import Key
from streams.source import Corruption
from streams.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class RequestPlan:
    """What one request is measured on, as positions into `EvaluationPlan.ids`.

    Attributes:
        deletion: the request.
        event: index of the event that serves it.
        forget: training samples it deletes.
        forget_test: test samples of the classes, tasks or users it names; empty for samples.
        non_members: test samples of the forget set's classes, for membership attacks.
        until: index of the first event that learns any of the forget set again, or the number of events.
    """

    deletion: DeletionRequest
    event: int
    forget: np.ndarray
    forget_test: np.ndarray
    non_members: np.ndarray
    until: int

    @property
    def name(self) -> str:
        """Name of the request."""
        return self.deletion.name

    @property
    def detailed(self) -> np.ndarray:
        """Positions whose predicted distributions and features are compared with the references'."""
        return np.union1d(self.forget, self.forget_test)


@dataclass(frozen=True, slots=True, eq=False)
class Damage:
    """Where manipulated data shows, as positions into `EvaluationPlan.ids`.

    Attributes:
        samples: the manipulated training samples.
        live: bool ``[E, len(samples)]``: learned and not deleted by then.
        affected, unaffected, attack: test rows; see `streams.source.Corruption`.
    """

    samples: np.ndarray
    live: np.ndarray
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
        alive: bool ``[E, N]``: whether a test sample still counts after event e, because neither its class nor its
            task is deleted at that time.
        since: int64 ``[E, U]``: event at which the present incarnation of the unit was first learned, -1 if the unit
            is not learned, or deleted as a whole.
        seen: bool ``[E, U]``: whether the unit was learned at all by then.
        probe: positions of the training samples that measure retained accuracy.
        probe_live: bool ``[E, len(probe)]``: learned and not deleted by then.
        requests: what each request is measured on.
        measured: bool ``[E]``: whether there is an evaluation after event e.
        watched: bool ``[E]``: whether there are evaluations within event e, too.
        classes_held: bool ``[E, C]``: classes of the units that are held after event e.
        damage: where manipulated data shows, or None if there is none.
        retained: positions of a few samples of the probe that are measured in detail, where measurements want that.
        averaged: records of measurements that are averaged over the forget sets of requests, and why there may be no
            mean.
        follows_requests: whether a measurement follows every request on, and the model from before the first.
        again: bool ``[E]``: whether every earlier request is measured in detail again after event e.
        audited: bool ``[E]``: whether audits are made where requests are looked at after event e.
        seed: of what attacks draw.
        tests_are_non_members: whether attacks by records hold a request against test samples, for want of others.
    """

    ids: np.ndarray
    classes: np.ndarray
    unit_of: np.ndarray
    position_of: np.ndarray
    num_units: int
    alive: np.ndarray
    since: np.ndarray
    seen: np.ndarray
    probe: np.ndarray
    probe_live: np.ndarray
    requests: tuple[RequestPlan, ...]
    measured: np.ndarray
    watched: np.ndarray
    classes_held: np.ndarray
    retained: np.ndarray
    averaged: dict[str, str]
    follows_requests: bool
    again: np.ndarray
    audited: np.ndarray
    seed: int = 0
    tests_are_non_members: bool = False
    damage: Damage | None = None

    def num_outputs(self, event: int) -> int:
        """Return how many evaluations there are up to and with `event`, that of the initial model being the first."""
        return 1 + int(self.measured[: event + 1].sum())

    def due(self, event: int) -> tuple[RequestPlan, ...]:
        """Return what is measured in detail after `event`: the request it serves, and those measured `again`.

        What has been learned again by then is left out.
        """
        again = self.again[event]
        return tuple(r for r in self.requests if r.event == event or (again and r.event < event < r.until))

    def starts_requests(self, event: int) -> bool:
        """Return whether the first request comes right after `event`, and a measurement follows requests from there."""
        first = min((r.event for r in self.requests), default=0)
        return self.follows_requests and first == event + 1

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
        gone = [r.forget_test for r in self.requests if r.event <= event < r.until]
        return np.setdiff1d(self.counting_tests(event), np.concatenate([*gone, self.position_of[:0]]))


def plan_evaluation(
    stream: Stream, config: EvaluationConfig, measurements: Sequence[Measurement] = ()
) -> EvaluationPlan:
    """Work out, before anything is computed, what every event of `stream` is measured on."""
    units = stream.units
    learnable = np.unique(np.concatenate([e.sample_ids for e in stream.experiences]))
    # Keyed by 0, not by the run's seed: runs with other seeds are measured on the same samples.
    probe_ids = learnable[(Key(0) / "probe").order(learnable)[: config.probe]]
    forget_ids = [r.sample_ids for r in stream.requests]
    bad = stream.source.corruption
    showing = [] if bad is None else [bad.samples, bad.affected, bad.unaffected, bad.attack]
    ids = np.unique(np.concatenate([*(u.test_ids for u in units), *forget_ids, probe_ids, *showing]))
    unit_of = np.concatenate([np.full(len(u.test_ids), i) for i, u in enumerate(units)])
    position_of = positions_in(ids, np.concatenate([u.test_ids for u in units]))
    alive, since, seen = _lives(stream, ids, unit_of, position_of)
    measured, watched = _moments(stream, config)
    probe = positions_in(ids, np.sort(probe_ids))
    follows_requests = any(m.follows_requests for m in measurements)
    again, audited = _looks(stream, config, follows_requests)
    measured |= again
    retained = max((m.retained for m in measurements), default=0)
    return EvaluationPlan(
        ids=ids,
        classes=stream.source.class_ids[ids],
        unit_of=unit_of,
        position_of=position_of,
        num_units=len(units),
        alive=alive,
        since=since,
        seen=seen,
        probe=probe,
        probe_live=_live(stream, ids[probe]),
        requests=_requests(stream, ids),
        measured=measured,
        watched=watched,
        classes_held=_classes_held(stream, since),
        damage=None if bad is None else _damage(stream, bad, ids),
        retained=positions_in(ids, np.sort(probe_ids[:retained])),
        averaged={name: m.undefined for m in measurements for name in m.averaged},
        follows_requests=follows_requests,
        again=again,
        audited=audited,
        seed=config.seed,
        tests_are_non_members=any(m.tests_are_non_members(stream.source) for m in measurements),
    )


def _looks(stream: Stream, config: EvaluationConfig, follows_requests: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return `again` and `audited` (see `EvaluationPlan`)."""
    requests = np.array([isinstance(e, DeletionRequest) for e in stream.events])
    again = np.zeros(len(requests), dtype=bool)
    if follows_requests:
        again |= requests
        if config.detailed_every is not None:
            again[config.detailed_every - 1 :: config.detailed_every] = True
            again &= np.cumsum(requests) > 0
    again[-1] = True
    looked = np.flatnonzero(requests | again)
    audited = np.zeros_like(again)
    audited[looked[:: config.audits_every]] = True
    audited[-1] = True
    return again, audited


def _classes_held(stream: Stream, since: np.ndarray) -> np.ndarray:
    held = np.zeros((len(since), stream.source.num_classes), dtype=bool)
    for number, unit in enumerate(stream.units):
        held[np.ix_(since[:, number] >= 0, np.array(unit.classes, dtype=np.int64))] = True
    return held


def _damage(stream: Stream, bad: Corruption, ids: np.ndarray) -> Damage:
    parts = (positions_in(ids, part) for part in (bad.affected, bad.unaffected, bad.attack))
    return Damage(positions_in(ids, bad.samples), _live(stream, bad.samples), *parts)


def _moments(stream: Stream, config: EvaluationConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return `measured` and `watched` (see `EvaluationPlan`).

    Within an experience only what falls below the accuracy just before it tells anything.
    """
    requests = np.array([isinstance(e, DeletionRequest) for e in stream.events])
    measured = requests.copy()
    measured[:-1] |= requests[1:]
    measured[config.every - 1 :: config.every] = True
    measured[-1] = True
    before = np.concatenate([[True], measured[:-1]])
    watched = measured & before & ~requests if config.dense_every is not None else np.zeros_like(measured)
    return measured, watched


def _lives(
    stream: Stream, ids: np.ndarray, unit_of: np.ndarray, position_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `alive`, `since` and `seen` (see `EvaluationPlan`)."""
    num_events, num_units = len(stream.events), len(stream.units)
    alive = np.ones((num_events, len(ids)), dtype=bool)
    since = np.full((num_events, num_units), -1)
    seen = np.zeros((num_events, num_units), dtype=bool)
    now_alive, now_since, now_seen = alive[0].copy(), since[0].copy(), seen[0].copy()
    dead_because: dict[str, np.ndarray] = {}
    for index, event in enumerate(stream.events):
        if isinstance(event, DeletionRequest):
            dead_because[event.name] = _retired(stream, event, ids, unit_of, position_of)
        else:
            now_seen[list(event.units)] = True
            if event.incarnation:
                returned = _revived_by(stream, event.sample_ids)
                dead_because = {name: dead for name, dead in dead_because.items() if name not in returned}
        now_alive = ~np.logical_or.reduce([np.zeros(len(ids), dtype=bool), *dead_because.values()])
        left = np.bincount(unit_of, weights=now_alive[position_of], minlength=num_units) > 0
        has_test = np.bincount(unit_of, minlength=num_units) > 0
        held = now_seen & (left | ~has_test)
        now_since = np.where(held, np.where(now_since < 0, index, now_since), -1)
        alive[index], since[index], seen[index] = now_alive, now_since, now_seen
    return alive, since, seen


def _retired(
    stream: Stream, request: DeletionRequest, ids: np.ndarray, unit_of: np.ndarray, position_of: np.ndarray
) -> np.ndarray:
    """Return which samples stop counting as retained test data: those of deleted classes and tasks."""
    dead = np.isin(stream.source.class_ids[ids], request.keys_of("class"))
    dead[position_of[np.isin(unit_of, request.keys_of("task"))]] = True
    return dead


def _revived_by(stream: Stream, sample_ids: np.ndarray) -> set[str]:
    return {r.name for r in stream.requests if np.isin(r.sample_ids, sample_ids).any()}


def _live(stream: Stream, ids: np.ndarray) -> np.ndarray:
    ledger = Ledger(stream.source)
    lives = np.zeros((len(stream.events), len(ids)), dtype=bool)
    for index, event in enumerate(stream.events):
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
        lives[index] = ledger.life[ids] == 1
    return lives


def _requests(stream: Stream, ids: np.ndarray) -> tuple[RequestPlan, ...]:
    source = stream.source
    tests = np.zeros(len(ids), dtype=bool)
    tests[positions_in(ids, np.unique(np.concatenate([u.test_ids for u in stream.units])))] = True
    plans = []
    for index, event in enumerate(stream.events):
        if not isinstance(event, DeletionRequest):
            continue
        named = np.isin(source.class_ids[ids], event.keys_of("class"))
        named |= np.isin(source.user_ids[ids], event.keys_of("user"))
        for unit in event.keys_of("task"):
            named |= np.isin(ids, stream.units[unit].test_ids)
        classes = np.unique(source.class_ids[event.sample_ids])
        again = [
            i
            for i, e in enumerate(stream.events)
            if i > index
            and not isinstance(e, DeletionRequest)
            and e.incarnation
            and np.isin(event.sample_ids, e.sample_ids).any()
        ]
        plans.append(
            RequestPlan(
                deletion=event,
                event=index,
                forget=positions_in(ids, event.sample_ids),
                forget_test=np.flatnonzero(named & tests),
                non_members=np.flatnonzero(tests & np.isin(source.class_ids[ids], classes)),
                until=min([*again, len(stream.events)]),
            )
        )
    return tuple(plans)
