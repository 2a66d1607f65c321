"""Work out on what a strategy is measured after every event, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.few_tests import with_few_tests
from lifelong.evaluation.plan import Damage, EvaluationPlan, RequestPlan
from strategies.measurement import Measurement
from streams.events import DeletionRequest, Experience
from streams.ledger import Ledger
from streams.positions import positions_in
from streams.randomness import Key
from streams.source import Corruption
from streams.stream import Stream


def plan_evaluation(
    stream: Stream, config: EvaluationConfig, measurements: Sequence[Measurement] = ()
) -> EvaluationPlan:
    """Work out, before anything is computed, what every event of `stream` is measured on."""
    stream = with_few_tests(stream, config.tests)
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
    again, audited = _again_and_audited(stream, config, follows_requests)
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
        probe_live=_live_by_event(stream, ids[probe]),
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


def _again_and_audited(
    stream: Stream, config: EvaluationConfig, follows_requests: bool
) -> tuple[np.ndarray, np.ndarray]:
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
    return Damage(positions_in(ids, bad.samples), _live_by_event(stream, bad.samples), *parts)


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


# Why: docs/decisions.md#a-units-accuracy-counts-live-test-samples-only
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


# Why: docs/decisions.md#test-samples-of-a-deleted-user-keep-counting
def _retired(
    stream: Stream, request: DeletionRequest, ids: np.ndarray, unit_of: np.ndarray, position_of: np.ndarray
) -> np.ndarray:
    """Return which samples stop counting as retained test data: those of deleted classes and tasks."""
    dead = np.isin(stream.source.class_ids[ids], request.keys_of("class"))
    dead[position_of[np.isin(unit_of, request.keys_of("task"))]] = True
    return dead


def _revived_by(stream: Stream, sample_ids: np.ndarray) -> set[str]:
    return {r.name for r in stream.requests if np.isin(r.sample_ids, sample_ids).any()}


def _live_by_event(stream: Stream, ids: np.ndarray) -> np.ndarray:
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
        forget, forget_until = positions_in(ids, event.sample_ids), _until(stream, index, event.sample_ids)
        classes = source.class_ids[ids]
        forget_test = np.flatnonzero(named & tests)
        non_members = np.flatnonzero(tests & np.isin(classes, classes[forget]))
        first = np.full(source.num_classes, len(stream.events))
        np.minimum.at(first, classes[forget], forget_until)
        last = np.zeros(source.num_classes, dtype=np.int64)
        np.maximum.at(last, classes[forget], forget_until)
        plans.append(
            RequestPlan(
                deletion=event,
                event=index,
                forget=forget,
                forget_test=forget_test,
                non_members=non_members,
                forget_until=forget_until,
                forget_test_until=first[classes[forget_test]],
                non_members_until=last[classes[non_members]],
            )
        )
    return tuple(plans)


def _until(stream: Stream, served: int, sample_ids: np.ndarray) -> np.ndarray:
    """Return for every one of `sample_ids` the first event after `served` that learns it again, or their number."""
    until = np.full(len(sample_ids), len(stream.events))
    for index in reversed(range(served + 1, len(stream.events))):
        event = stream.events[index]
        if isinstance(event, Experience) and event.incarnation:
            until[np.isin(sample_ids, event.sample_ids)] = index
    return until
