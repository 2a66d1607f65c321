"""What is measured on, and the one pass that measures it. Strategies never know about any of this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.generation import records_of, records_of_holdout
from lifelong.evaluation.probes import Prober, check_audits
from lifelong.evaluation.relearning import Relearning, readout
from lifelong.formulas.membership import entropies, modified_entropies
from strategies.base import Setting, Strategy
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.training.out_of_memory import memory_errors
from streams.data import Batch
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.randomness import Key
from streams.source import Corruption
from streams.stream import Stream
from streams.text import GIVEN

KEPT = 60
"""Samples of the probe whose answers are measured in detail."""


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
        audits: one per request.
        measured: bool ``[E]``: whether there is an evaluation after event e.
        watched: bool ``[E]``: whether there are evaluations within event e, too.
        classes_held: bool ``[E, C]``: classes of the units that are held after event e.
        damage: where manipulated data shows, or None if there is none.
        kept: positions of a few samples of the probe that are measured in detail; none unless the data is text.
        world: bool ``[N]``: whether a sample is a fact about the world.
        is_text: whether the data is text.
        again: bool ``[E]``: whether every earlier request is measured in detail again after event e.
        audited: bool ``[E]``: whether audits are made where requests are looked at after event e.
        seed: of what attacks draw.
        tests_are_non_members: whether membership attacks hold a request against test rows: in text without questions,
            for which no rows are held out.
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
    classes_held: np.ndarray
    kept: np.ndarray
    world: np.ndarray
    is_text: bool
    again: np.ndarray
    audited: np.ndarray
    seed: int = 0
    tests_are_non_members: bool = False
    damage: Damage | None = None

    def num_outputs(self, event: int) -> int:
        """Return how many evaluations there are up to and with `event`, that of the initial model being the first."""
        return 1 + int(self.measured[: event + 1].sum())

    def due(self, event: int) -> tuple[Audit, ...]:
        """Return what is measured in detail after `event`: the request it serves, and at the end all requests.

        What has been learned again by then is left out. In text all earlier requests are looked at again, too.
        """
        again = self.again[event]
        return tuple(a for a in self.audits if a.event == event or (again and a.event < event < a.until))

    def starts_requests(self, event: int) -> bool:
        """Return whether the first request comes right after `event`: in text, utility is looked at before it."""
        return self.is_text and bool(self.audits) and min(a.event for a in self.audits) == event + 1

    def detailed(self, event: int) -> np.ndarray:
        """Return the positions whose distributions and features are kept after `event`."""
        due = self.due(event)
        chosen = [a.detailed for a in due]
        if self.tests_are_non_members:
            chosen += [a.non_members for a in due]
        if chosen or (self.is_text and event == len(self.alive) - 1) or self.starts_requests(event):
            chosen.append(self.kept)
        return np.unique(np.concatenate(chosen)) if chosen else np.array([], dtype=np.int64)

    def kept_questions(self, event: int) -> np.ndarray:
        """Return positions of test rows, of units that are held, about nobody whose data is deleted."""
        positions = self.position_of[self.since[event][self.unit_of] >= 0]
        gone = [a.forget_test for a in self.audits if a.event <= event < a.until]
        return np.setdiff1d(positions[self.alive[event][positions]], np.concatenate([*gone, positions[:0]]))


def plan_evaluation(stream: Stream, config: EvaluationConfig) -> EvaluationPlan:
    """Work out, before anything is computed, what every event of `stream` is measured on.

    Raises:
        ConfigError: an audit needs text, or more held-out rows than there are.
    """
    check_audits(stream.source.text, config)
    units = stream.units
    learnable = np.unique(np.concatenate([e.sample_ids for e in stream.experiences]))
    # Keyed by 0, not by the run's seed: runs with other seeds are measured on the same samples.
    probe_ids = learnable[(Key(0) / "probe").order(learnable)[: config.probe]]
    forget_ids = [r.sample_ids for r in stream.requests]
    bad = stream.source.corruption
    showing = [] if bad is None else [bad.samples, bad.affected, bad.unaffected, bad.attack]
    ids = np.unique(np.concatenate([*(u.test_ids for u in units), *forget_ids, probe_ids, *showing]))
    unit_of = np.concatenate([np.full(len(u.test_ids), i) for i, u in enumerate(units)])
    position_of = np.searchsorted(ids, np.concatenate([u.test_ids for u in units]))
    alive, since, seen = _lives(stream, ids, unit_of, position_of)
    measured, watched = _moments(stream, config)
    probe = np.searchsorted(ids, np.sort(probe_ids))
    text = stream.source.text
    is_text = text is not None
    again, audited = _looks(stream, config, is_text)
    measured |= again
    has_questions = is_text and int((stream.source.x[:, 1] == GIVEN).sum(1).max()) != 1
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
        probe_live=_live(stream, ids[probe]),
        audits=_audits(stream, ids),
        measured=measured,
        watched=watched,
        classes_held=_classes_held(stream, since),
        damage=None if bad is None else _damage(stream, bad, ids),
        kept=np.searchsorted(ids, np.sort(probe_ids[:KEPT])) if is_text else np.array([], dtype=np.int64),
        world=names[stream.source.user_ids[ids]],
        is_text=is_text,
        again=again,
        audited=audited,
        seed=config.seed,
        tests_are_non_members=text is not None and text.holdout is None and not has_questions,
    )


def _looks(stream: Stream, config: EvaluationConfig, is_text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return `again` and `audited` (see `EvaluationPlan`)."""
    requests = np.array([isinstance(e, DeletionRequest) for e in stream.events])
    again = np.zeros(len(requests), dtype=bool)
    if is_text:
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
    parts = (np.searchsorted(ids, part) for part in (bad.affected, bad.unaffected, bad.attack))
    return Damage(np.searchsorted(ids, bad.samples), _live(stream, bad.samples), *parts)


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
        details: what is there only where something is measured in detail, by name; D are the detailed positions, A the
            audits that are due, M all samples and R the steps of relearning.

            probabilities ``[D, K]``: predicted distributions. features ``[D, F]``: penultimate. margins ``[M]``: log
            odds of the label. confidences ``[M]``: highest probability. entropies, modified_entropies ``[M]``, in
            nats. weights ``[P]``. relearning ``[A, R + 1]``: loss on held-out data of the request before every step and
            after the last. readout ``[A]``: accuracy of a new last layer on what is forgotten. All float32, NaN where
            undefined.
            ``audit_*`` ``[A]`` and ``stream_*`` ``[1]``: of text, see `Prober`. ``record_*`` ``[D]``
            and ``record_holdout_*`` ``[S]``: of text, see `lifelong.evaluation.generation`.
    """

    scores: np.ndarray
    losses: np.ndarray
    details: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def probabilities(self) -> np.ndarray | None:
        """Predicted distributions ``[D, K]`` at the detailed positions, if there are any."""
        return self.details.get("probabilities")

    @property
    def features(self) -> np.ndarray | None:
        """Penultimate features ``[D, F]`` at the detailed positions, if there are any."""
        return self.details.get("features")

    @property
    def records(self) -> dict[str, np.ndarray] | None:
        """Of text: numbers of every answer at the detailed positions, ``[D]`` by name, and of the holdout; or None."""
        return records_in(self.details)


class Evaluator:
    """Runs strategies over the evaluation plan. Holds its samples in batches, outside of any ledger."""

    def __init__(
        self,
        stream: Stream,
        plan: EvaluationPlan,
        setting: Setting,
        config: EvaluationConfig,
        device: str,
    ) -> None:
        """Gather the evaluation samples once."""
        self._setting, self._plan, self._config = setting, plan, config
        self._size = config.batch_size
        self._data = Ledger(stream.source, stream.task_of, device).lend(plan.ids)
        self._unseen = stream.source.is_test[plan.ids]
        self._prober = Prober(setting, stream, plan, config, self._data)
        self._batches = self._data.batches(self._size)

    def evaluate(self, strategy: Strategy, event: int | None = None) -> Outputs:
        """Return scores and losses of every sample, and details where `event` is one that is measured in detail."""
        detailed = event is not None and (bool(self._plan.due(event)) or self._plan.starts_requests(event))
        size = self._config.batch_size
        with memory_errors("evaluation.batch_size", size, lambda n: strategy.predict(self._batches[0].part(0, n))):
            return self._evaluate(strategy, event if detailed else None)

    def _evaluate(self, strategy: Strategy, event: int | None) -> Outputs:
        objective = self._setting.objective
        scores, losses = [], []
        more: dict[str, list[torch.Tensor]] = {}
        for batch in self._batches:
            outputs = strategy.predict(batch)
            with torch.inference_mode():
                scores.append(objective.scores(outputs, batch))
                losses.append(objective.losses(outputs, batch))
                for name, values in self._of_predictions(outputs, batch) if event is not None else ():
                    more.setdefault(name, []).append(values)
        details = {name: _array(parts) for name, parts in more.items()}
        if event is not None:
            details |= self._details(strategy, self._plan.detailed(event)) | self._audits(strategy, event)
            details |= self._records(strategy, self._plan.detailed(event))
        return Outputs(_array(scores), _array(losses), details)

    def _records(self, strategy: Strategy, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return records of the answers at `positions` (see `records_of`); nothing if the data is no text."""
        objective = self._setting.objective
        text = objective.text if isinstance(objective, CausalLM) else None
        if text is None or not len(positions):
            return {}
        parts = self._parts(positions)
        found = [records_of(strategy.predict, batch, text) for batch in parts]
        records = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        records |= records_of_holdout(strategy.predict, text, parts[0], self._size)
        if self._plan.tests_are_non_members:
            records["unseen"] = self._unseen[positions].astype(np.float32)
        return {f"record_{name}": values for name, values in records.items()}

    def probabilities(self, strategy: Strategy, positions: np.ndarray) -> np.ndarray | None:
        """Return the distributions ``[len(positions), K]`` that a strategy predicts, or None where there are none."""
        with torch.inference_mode():
            return _optional(
                [self._setting.objective.probabilities(strategy.predict(b), b) for b in self._parts(positions)]
            )

    def margins(self, strategy: Strategy, positions: np.ndarray) -> np.ndarray | None:
        """Return the log odds of the labels ``[len(positions)]``, or None where no class is predicted."""
        with torch.inference_mode():
            return _optional([self._setting.objective.margins(strategy.predict(b), b) for b in self._parts(positions)])

    def looks_at(self, event: int) -> bytes:
        """Return what decides, beside the strategy, the details of `event`: for the keys of caches."""
        parts = [self._plan.detailed(event)]
        if self._config.audits and self._plan.audited[event]:
            parts.append(self._plan.probe[self._plan.probe_live[event]])
            parts += [part for a in self._plan.due(event) for part in (a.forget, a.forget_test)]
            parts.append(self._plan.kept_questions(event))
        return b"|".join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in parts)

    def _of_predictions(self, outputs: torch.Tensor, batch: Batch) -> list[tuple[str, torch.Tensor]]:
        p, margins = (
            self._setting.objective.probabilities(outputs, batch),
            self._setting.objective.margins(outputs, batch),
        )
        if p is None or margins is None:
            return []
        return [
            ("margins", margins),
            ("confidences", p.amax(1)),
            ("entropies", entropies(p)),
            ("modified_entropies", modified_entropies(p, batch.y)),
        ]

    def _details(self, strategy: Strategy, positions: np.ndarray) -> dict[str, np.ndarray]:
        parts = self._parts(positions)
        with torch.inference_mode():
            f = [strategy.features(b) for b in parts]
        found = {"probabilities": self.probabilities(strategy, positions), "features": _optional(f)}
        return {name: values for name, values in found.items() if values is not None}

    def _audits(self, strategy: Strategy, event: int) -> dict[str, np.ndarray]:
        """Take copies of the model apart, as far as the configuration asks for it."""
        config, due = self._config, self._plan.due(event)
        live = self._plan.probe[self._plan.probe_live[event]]
        if self._plan.starts_requests(event) and "muse" in config.audits:
            return self._prober.utility(strategy, event)
        if not due or not self._plan.audited[event]:
            return {}
        found = self._prober.look(strategy, event)
        model = strategy.network() if config.audits else None
        if "weights" in config.audits and model is not None:
            found["weights"] = _array([model.parameters])
        if "relearn" in config.audits and model is not None:
            start = model.state_dict()
            curves = []
            for a in due:
                held_out = a.forget_test if len(a.forget_test) else a.forget
                key = self._setting.key / "relearn" / a.request.name
                lesson = Relearning(self._setting, key, config.relearn_steps, lr=config.relearn_lr)
                curves.append(lesson.curve(model, self._part(a.forget), self._part(live), self._part(held_out)))
                model.load_state_dict(start)
            found["relearning"] = np.stack(curves)
        if "readout" in config.audits:
            found["readout"] = np.array([self._readout(strategy, a, live) for a in due], dtype=np.float32)
        return found

    def _readout(self, strategy: Strategy, audit: Audit, live: np.ndarray) -> float:
        """Return the accuracy on the request's test data of a last layer fitted anew; NaN where there is none."""
        others = live[(self._setting.key / "readout" / audit.request.name).order(self._plan.ids[live])]
        parts = [self._part(p) for p in (audit.forget, np.sort(others[: len(audit.forget)]), audit.forget_test)]
        if not all(len(b) for b in parts):
            return float("nan")
        features = [strategy.features(b) for b in parts]
        if any(f is None for f in features):
            return float("nan")
        forgotten, retained, held_out = (f.float().cpu().numpy() for f in features if f is not None)
        labels = [b.y.cpu().numpy() for b in parts]
        return readout(forgotten, labels[0], retained, labels[1], held_out, labels[2])

    def _parts(self, positions: np.ndarray) -> list[Batch]:
        return [self._data.batch(p) for p in self._data.positions()[torch.from_numpy(positions)].split(self._size)]

    def _part(self, positions: np.ndarray) -> Batch:
        return self._data.batch(self._data.positions()[torch.from_numpy(positions)])


def _array(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).float().cpu().numpy()


def _optional(parts: list[torch.Tensor | None]) -> np.ndarray | None:
    there = [p for p in parts if p is not None]
    return _array(there) if there else None


def records_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the records among stored arrays, whose names begin with ``record_`` there; None if there are none."""
    found = {n.removeprefix("record_"): arrays[n] for n in arrays if n.startswith("record_")}
    return found or None
