"""Work out on what a strategy is measured after every event, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.changes import Changes
from lifelong.evaluation.few_tests import with_few_tests
from lifelong.evaluation.following import extra_positions, numbers_followed, numbers_looked_at
from lifelong.evaluation.plan import Damage, EvaluationPlan
from lifelong.evaluation.requests import plan_requests
from strategies.measurement import Measurement
from streams.events import DeletionRequest, Request
from streams.ledger import Ledger, Life
from streams.positions import positions_in
from streams.randomness import Key
from streams.source import Corruption
from streams.stream import Stream


def plan_evaluation(
    stream: Stream, config: EvaluationConfig, measurements: Sequence[Measurement] = (), follows_requests: bool = False
) -> EvaluationPlan:
    """Work out, before anything is computed, what every event of `stream` is measured on.

    Args:
        stream: what is lived through.
        config: what is asked for.
        measurements: of the objective.
        follows_requests: whether every request is measured again after each later one, whatever `measurements` say.
    """
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
    follows_requests |= any(m.follows_requests for m in measurements)
    again, audited = _again_and_audited(stream, config, follows_requests)
    measured |= again
    retained = max((m.retained for m in measurements), default=0)
    damage = None if bad is None else _damage(stream, bad, ids)
    requests = plan_requests(stream, ids)
    numbers = numbers_followed(requests, measured, config.follow)
    looked_at = None if numbers is None else numbers_looked_at(requests, numbers, again)
    shown = [] if damage is None else [damage.samples, damage.affected, damage.unaffected, damage.attack]
    always = np.unique(np.concatenate([position_of, probe, *shown]))
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
        probe_live=Changes(_live_by_event(stream, ids[probe])),
        requests=requests,
        measured=measured,
        watched=watched,
        classes_held=Changes(_classes_held(stream, since)),
        damage=damage,
        retained=positions_in(ids, np.sort(probe_ids[:retained])),
        averaged={name: m.undefined for m in measurements for name in m.averaged},
        follows_requests=follows_requests,
        again=again,
        audited=audited,
        numbers=numbers,
        always=always,
        extra=None if looked_at is None else extra_positions(requests, looked_at, always),
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


def _classes_held(stream: Stream, since: Changes) -> Iterator[np.ndarray]:
    """Yield after every event, bool ``[C]``, the classes of the units that are held."""
    class_of = np.concatenate([np.array(u.classes, dtype=np.int64) for u in stream.units])
    unit_of = np.repeat(np.arange(len(stream.units)), [len(u.classes) for u in stream.units])
    for event in range(len(since)):
        held = np.zeros(stream.source.num_classes, dtype=bool)
        held[class_of[since[event][unit_of] >= 0]] = True
        yield held


def _damage(stream: Stream, bad: Corruption, ids: np.ndarray) -> Damage:
    parts = (positions_in(ids, part) for part in (bad.affected, bad.unaffected, bad.attack))
    return Damage(positions_in(ids, bad.samples), Changes(_live_by_event(stream, bad.samples)), *parts)


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
) -> tuple[Changes, Changes, Changes]:
    """Return `alive`, `since` and `seen` (see `EvaluationPlan`)."""
    num_units = len(stream.units)
    has_test = np.bincount(unit_of, minlength=num_units) > 0
    deletions = np.zeros(len(ids), dtype=np.int32)  # how many requests have retired each sample
    retired_by: dict[int, np.ndarray] = {}  # by the number of a request; several may be served together
    deleted_by = np.full(len(stream.source), -1)  # which request deleted a training sample and retired others with it
    num_requests = 0
    alive, since, seen = np.ones(len(ids), dtype=bool), np.full(num_units, -1), np.zeros(num_units, dtype=bool)
    lives: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    left = has_test
    for index, event in enumerate(stream.events):
        changed: list[np.ndarray] = []
        if isinstance(event, DeletionRequest):
            for request in event.requests:
                retired, num_requests = _retired(stream, request, ids, unit_of, position_of), num_requests + 1
                if len(retired):
                    retired_by[num_requests] = retired
                    deleted_by[request.sample_ids] = num_requests
                    deletions[retired] += 1
                    changed.append(retired)
        else:
            if not seen[list(event.units)].all():
                seen = seen.copy()
                seen[list(event.units)] = True
            if event.incarnation:
                for earlier in retired_by.keys() & set(deleted_by[event.sample_ids].tolist()):
                    changed.append(retired_by.pop(earlier))
                    deletions[changed[-1]] -= 1
        if changed:
            alive = deletions == 0
            left = np.bincount(unit_of, weights=alive[position_of], minlength=num_units) > 0
        held = seen & (left | ~has_test)
        if not np.array_equal(held, since >= 0):
            since = np.where(held, np.where(since < 0, index, since), -1)
        lives.append((alive, since, seen))
    alive_after, since_after, seen_after = zip(*lives, strict=True)
    return Changes(alive_after), Changes(since_after), Changes(seen_after)


# Why: docs/decisions.md#test-samples-of-a-deleted-user-keep-counting
def _retired(
    stream: Stream, request: Request, ids: np.ndarray, unit_of: np.ndarray, position_of: np.ndarray
) -> np.ndarray:
    """Return positions of what stops counting as retained test data: samples of deleted classes and tasks."""
    match request.scope:
        case "class":
            return np.flatnonzero(np.isin(stream.source.class_ids[ids], request.keys))
        case "task":
            return np.unique(position_of[np.isin(unit_of, request.keys)])
        case _:
            return np.array([], dtype=np.int64)


def _live_by_event(stream: Stream, ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yield after every event which of `ids` are learned and not deleted."""
    ledger = Ledger(stream.source)
    for event in stream.events:
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
        yield ledger.life[ids] == Life.LEARNED
