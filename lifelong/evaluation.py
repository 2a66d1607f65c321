"""What is measured on, and the one pass that measures it. Strategies never know about any of this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lifelong.answers import records_of, records_of_strangers
from lifelong.config import EvaluationConfig
from strategies.base import Setting, Strategy
from strategies.objectives.causal_lm import CausalLM
from streams.data import Batch
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.randomness import Key
from streams.stream import Stream

KEPT = 60
"""Samples of the probe whose answers are looked at closely."""


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """What one request is measured on, as positions into `EvaluationPlan.ids`.

    Attributes:
        request: the request.
        event: index of the event that serves it.
        forget: training samples it deletes.
        forget_test: test samples of the classes, tasks or users it names; empty for samples.
        non_members: test samples of the forget set's classes, for membership attacks.
        until: index of the first event that learns any of the forget set again, or the number of events.
    """

    request: DeletionRequest
    event: int
    forget: np.ndarray
    forget_test: np.ndarray
    non_members: np.ndarray
    until: int

    @property
    def detailed(self) -> np.ndarray:
        """Positions whose predicted distributions and features are compared with the references'."""
        return np.union1d(self.forget, self.forget_test)


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
        audits: one per request.
        measured: bool ``[E]``: whether there is an evaluation after event e.
        watched: bool ``[E]``: whether there are evaluations within event e, too.
        kept: positions of a few samples of the probe whose answers are looked at closely; none unless the data is text.
        world: bool ``[N]``: whether a sample is a fact about the world.
        is_text: whether every earlier request is looked at closely again after each request.
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
    audits: tuple[Audit, ...]
    measured: np.ndarray
    watched: np.ndarray
    kept: np.ndarray
    world: np.ndarray
    is_text: bool

    def num_outputs(self, event: int) -> int:
        """Return how many evaluations there are up to and with `event`, that of the initial model being the first."""
        return 1 + int(self.measured[: event + 1].sum())

    def due(self, event: int) -> tuple[Audit, ...]:
        """Return what references are held against after `event`: the request it serves, and at the end all requests.

        What has been learned again by then is left out. In text all earlier requests are looked at again, too.
        """
        last = len(self.alive) - 1
        again = event == last or (self.is_text and any(a.event == event for a in self.audits))
        return tuple(a for a in self.audits if a.event == event or (again and a.event < event < a.until))

    def detailed(self, event: int) -> np.ndarray:
        """Return the positions whose distributions and features are kept after `event`."""
        chosen = [a.detailed for a in self.due(event)]
        if chosen or (self.is_text and event == len(self.alive) - 1):
            chosen.append(self.kept)
        return np.unique(np.concatenate(chosen)) if chosen else np.array([], dtype=np.int64)


def plan_evaluation(stream: Stream, config: EvaluationConfig) -> EvaluationPlan:
    """Work out, before anything is computed, what every event of `stream` is measured on."""
    units = stream.units
    learnable = np.unique(np.concatenate([e.sample_ids for e in stream.experiences]))
    # Keyed by 0, not by the run's seed: runs with other seeds are measured on the same samples.
    probe_ids = learnable[(Key(0) / "probe").order(learnable)[: config.probe]]
    forget_ids = [r.sample_ids for r in stream.requests]
    ids = np.unique(np.concatenate([*(u.test_ids for u in units), *forget_ids, probe_ids]))
    unit_of = np.concatenate([np.full(len(u.test_ids), i) for i, u in enumerate(units)])
    position_of = np.searchsorted(ids, np.concatenate([u.test_ids for u in units]))
    alive, since, seen = _lives(stream, ids, unit_of, position_of)
    measured, watched = _moments(stream, config)
    probe = np.searchsorted(ids, np.sort(probe_ids))
    is_text = stream.source.text is not None
    names = np.array([n == "world" for n in stream.source.user_names])
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
        probe_live=_probe_lives(stream, ids[probe]),
        audits=_audits(stream, ids),
        measured=measured,
        watched=watched,
        kept=np.searchsorted(ids, np.sort(probe_ids[:KEPT])) if is_text else np.array([], dtype=np.int64),
        world=names[stream.source.user_ids[ids]],
        is_text=is_text,
    )


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


def _probe_lives(stream: Stream, ids: np.ndarray) -> np.ndarray:
    ledger = Ledger(stream.source)
    lives = np.zeros((len(stream.events), len(ids)), dtype=bool)
    for index, event in enumerate(stream.events):
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
        lives[index] = ledger.life[ids] == 1
    return lives


def _audits(stream: Stream, ids: np.ndarray) -> tuple[Audit, ...]:
    source = stream.source
    tests = np.zeros(len(ids), dtype=bool)
    tests[np.searchsorted(ids, np.unique(np.concatenate([u.test_ids for u in stream.units])))] = True
    audits = []
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
        audits.append(
            Audit(
                request=event,
                event=index,
                forget=np.searchsorted(ids, event.sample_ids),
                forget_test=np.flatnonzero(named & tests),
                non_members=np.flatnonzero(tests & np.isin(source.class_ids[ids], classes)),
                until=min([*again, len(stream.events)]),
            )
        )
    return tuple(audits)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Per-sample results of one pass.

    Attributes:
        scores: float32 ``[N]``, the objective's score (1 or 0 for classification).
        losses: float32 ``[N]``.
        probabilities: float32 ``[D, K]`` predicted distributions at the detailed positions, or None.
        features: float32 ``[D, F]`` penultimate features at the detailed positions, or None.
        records: of text: numbers of every answer at the detailed positions, float32 ``[D]`` by name, and of strangers,
            ``[M]``, by names that begin with ``strangers_``; or None.
    """

    scores: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray | None = None
    features: np.ndarray | None = None
    records: dict[str, np.ndarray] | None = None


class Evaluator:
    """Runs strategies over the evaluation plan. Holds its samples in batches, outside of any ledger."""

    def __init__(self, stream: Stream, plan: EvaluationPlan, setting: Setting, batch_size: int, device: str) -> None:
        """Gather the evaluation samples once."""
        self._setting = setting
        self._size = batch_size
        self._data = Ledger(stream.source, stream.task_of, device).lend(plan.ids)
        self._batches = self._data.batches(batch_size)

    def evaluate(self, strategy: Strategy, detailed: np.ndarray | None = None) -> Outputs:
        """Return scores and losses of every sample, and distributions and features at the `detailed` positions."""
        objective = self._setting.objective
        scores, losses = [], []
        for batch in self._batches:
            outputs = strategy.predict(batch)
            with torch.inference_mode():
                scores.append(objective.scores(outputs, batch))
                losses.append(objective.losses(outputs, batch))
        probabilities, features = self._details(strategy, detailed)
        return Outputs(_array(scores), _array(losses), probabilities, features, self._records(strategy, detailed))

    def _records(self, strategy: Strategy, positions: np.ndarray | None) -> dict[str, np.ndarray] | None:
        """Return what `lifelong.answers` says of the answers at `positions`, or None if the data is no text."""
        objective = self._setting.objective
        text = objective.text if isinstance(objective, CausalLM) else None
        if text is None or positions is None or not len(positions):
            return None
        parts = [self._data.batch(p) for p in torch.from_numpy(positions).to(self._data.positions()).split(self._size)]
        found = [records_of(strategy.predict, batch, text) for batch in parts]
        strangers = records_of_strangers(strategy.predict, text, parts[0], self._size)
        return {name: np.concatenate([f[name] for f in found]) for name in found[0]} | strangers

    def _details(self, strategy: Strategy, positions: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        if positions is None or not len(positions):
            return None, None
        parts: list[Batch] = [
            self._data.batch(p) for p in self._data.positions()[torch.from_numpy(positions)].split(self._size)
        ]
        with torch.inference_mode():
            p = [self._setting.objective.probabilities(strategy.predict(b), b) for b in parts]
            f = [strategy.features(b) for b in parts]
        return _optional(p), _optional(f)


def _array(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).float().cpu().numpy()


def _optional(parts: list[torch.Tensor | None]) -> np.ndarray | None:
    there = [p for p in parts if p is not None]
    return _array(there) if there else None


def records_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the records among stored arrays, whose names begin with ``record_`` there; None if there are none."""
    found = {n.removeprefix("record_"): arrays[n] for n in arrays if n.startswith("record_")}
    return found or None
