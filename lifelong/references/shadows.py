"""Shadow lives: the same stream under other seeds, in each of which a random half of the forgotten data never occurs.

One set of lives serves every request and every moment: a sample of a request is *in* the lives that learned it and
were asked to forget it, and *out* of those in which it never was. Just before the request the same lives give LiRA and
RMIA on a model that has forgotten nothing, the control that an attack works. Retrained lives have seeds of their own:
with those of the lives that unlearn, what retrains would be compared with itself. Both are cached like references, and
shared by all runs that have the same strategy; the retrained ones by all strategies with the same learner. Small
models of several lives are trained at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lifelong.config.run import RunConfig
from lifelong.evaluation.evaluator import Evaluator
from lifelong.evaluation.outputs import Details, Outputs
from lifelong.evaluation.plan import RequestPlan
from lifelong.metrics.detailed import is_private
from lifelong.metrics.requests import mean_rows
from lifelong.metrics.shadows import lira_rows, rmia_rows, score_rows, ulira_rows
from lifelong.processes.fresh import call
from lifelong.processes.settings import torch_settings
from lifelong.references.comparison import lives_of
from lifelong.references.tree import Cost, Elsewhere, Missing, References, lines, reference_parts
from lifelong.results.table import Row, row
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.base import Outcome, Strategy
from strategies.parts.together import together
from strategies.parts.training.timing import now
from streams.events import Event, Experience, Request
from streams.positions import positions_in
from streams.randomness import Key
from streams.registry import others_code
from streams.stream import Stream
from streams.timeline import surviving, with_ids

STACKED = 16
"""How many lives go on at once; small models are trained as one (`strategies.parts.together`)."""
_SEEDS = 4_000_037
_RETRAINED_SEEDS = 2_000_003
_POPULATION = 200
_NO_CLASS = "the objective predicts no class"


@dataclass(frozen=True, slots=True)
class _Moment:
    """A shadow beside one event of the main run."""

    event: int


class _Onlooker:
    """Measures what shadows are lived for: log odds of forgotten and unseen samples, and accuracy on what is kept."""

    def __init__(self, p: Prepared, evaluator: Evaluator, targets: np.ndarray) -> None:
        tests = p.plan.counting_tests(len(p.stream.events) - 1)
        unseen = tests[(Key(0) / "population").order(p.plan.ids[tests])[:_POPULATION]]
        self._plan, self._evaluator, self._targets = p.plan, evaluator, np.concatenate([targets, unseen])

    def evaluate(self, strategy: Strategy, event: int) -> Outputs:
        """Return the log odds of the targets and of unseen samples, and mean scores on live and on test data."""
        scores = self._evaluator.evaluate(strategy).scores
        margins = self._evaluator.margins(strategy, self._targets)
        nothing = np.zeros(0, dtype=np.float32)
        means = [scores[part].mean() if len(part) else np.nan for part in self._live_and_tests(event)]
        kept = np.array(means, dtype=np.float32)
        return Outputs(nothing, nothing, Details(shadow_margins=margins, shadow_kept=kept))

    def looks_at(self, event: int) -> bytes:
        """Return what is measured at `event`."""
        return b"shadow" + b"|".join(part.tobytes() for part in (self._targets, *self._live_and_tests(event)))

    def _live_and_tests(self, event: int) -> tuple[np.ndarray, np.ndarray]:
        plan = self._plan
        return plan.live(event), plan.counting_tests(event)


def is_inside(life: int, ids: np.ndarray) -> np.ndarray:
    """Return, bool ``[n]``, which of `ids` occur in a shadow life: a fair coin for a pair of lives, turned in its twin.

    Any even number of lives has every sample in exactly half of them, and more lives leave the others as they are.
    """
    coin = (Key(0) / "shadow" / (life // 2)).uniform(ids) < 0.5
    return coin if life % 2 == 0 else ~coin


def shadow_events(events: tuple[Event, ...], excluded: np.ndarray) -> tuple[Event, ...]:
    """Return `events` as if the `excluded` ids did not exist; what is left with nothing disappears."""
    result: list[Event] = []
    for event in events:
        ids = event.sample_ids[~np.isin(event.sample_ids, excluded)]
        if not len(ids):
            continue
        if isinstance(event, Experience):
            result.append(with_ids(event, ids))
            continue
        requests = [_without_samples(r, excluded) for r in event.requests]
        result.append(replace(event, requests=tuple(r for r in requests if len(r.sample_ids))))
    return tuple(result)


def _without_samples(request: Request, excluded: np.ndarray) -> Request:
    keys = np.array(request.keys)
    if request.scope == "sample":
        keys = keys[~np.isin(keys, excluded)]
    kept = [part[~np.isin(part, excluded)] for part in (request.sample_ids, request.barred_ids)]
    return replace(request, keys=tuple(keys.tolist()), sample_ids=kept[0], barred_ids=kept[1])


# Why: docs/decisions.md#a-shadow-life-is-the-whole-stream-under-another-seed
def shadow_rows(p: Prepared, name: str, evaluator: Evaluator) -> tuple[list[Row], Cost]:
    """Return what attacks on single samples find in strategy `name`, and what the lives cost."""
    requests, targets = _private(p)
    count, last = p.config.references.shadows, len(p.stream.events) - 1
    if not count or not requests:
        return [], Cost()
    ids = p.plan.ids[targets]
    lives, retrained = _both(p, name, evaluator)
    for start in range(0, count, STACKED):
        group = range(start, min(start + STACKED, count))
        lives.add(group)
        retrained.add(group)
    inside = np.stack([is_inside(life, ids) for life in range(count)])
    rows: list[Row] = []
    for request in requests:
        columns = positions_in(targets, request.forget)
        if not lives.known:
            rows.append(row(request.event, "run", request.name, "ulira_auc", None, len(columns), _NO_CLASS))
            continue
        before, gamma = lives.margins(request.event - 1), p.config.references.rmia_gamma
        sides = before[:, columns], before[:, len(targets) :], inside[:, columns]
        rows += lira_rows(request.event, request, sides[0], sides[2])
        rows += rmia_rows(request.event, request, *sides, gamma, "rmia_before")
        for event in sorted({request.event, last} if request.until > last else {request.event}):
            at = request.at(event)
            columns = positions_in(targets, at.forget)
            margins, retrained_margins = lives.margins(event), retrained.margins(event)[:, columns]
            sides = margins[:, columns], margins[:, len(targets) :], inside[:, columns]
            rows += ulira_rows(event, at, sides[0], sides[2])
            rows += rmia_rows(event, at, *sides, gamma, "rmia")
            kept = float(np.prod(lives.kept(event) / retrained.kept(event)))
            rows += score_rows(event, at, sides[0], retrained_margins, sides[2], kept)
    return rows + _means(requests, rows, last), lives.cost + retrained.cost


def shadow_files(p: Prepared, name: str, evaluator: Evaluator) -> list[Path]:
    """Return where the shadow lives of strategy `name` are kept."""
    if not p.config.references.shadows or not _private(p)[0]:
        return []
    files: list[Path] = []
    for lives in _both(p, name, evaluator):
        for life in range(p.config.references.shadows):
            files += lives.files(life)
    return files


def _both(p: Prepared, name: str, evaluator: Evaluator) -> tuple[_Lives, _Lives]:
    """Return the lives that unlearn, and the retrained ones."""
    requests, targets = _private(p)
    onlooker, ids, last = _Onlooker(p, evaluator, targets), p.plan.ids[targets], len(p.stream.events) - 1
    after = {e for r in requests for e in (r.event, last)}
    return (
        _Lives(p, name, onlooker, ids, sorted(after | {r.event - 1 for r in requests}), retrained=False),
        _Lives(p, name, onlooker, ids, sorted(after), retrained=True),
    )


# Why: docs/decisions.md#lives-that-are-compared-share-no-process
def _live_alone(p: Prepared, name: str, retrained: bool, life: int, missing: Missing) -> Outcome:
    """Live where nobody has lived before, as references of users' files do."""
    config = p.config.model_copy(update={"strategies": {name: p.config.strategies[name]}})
    return call(_live_here, config, p.stream, name, retrained, life, missing)


def _live_here(config: RunConfig, stream: Stream, name: str, retrained: bool, life: int, missing: Missing) -> Outcome:
    p = prepare(config, stream)
    with torch_settings(config):
        evaluator = make_instruments(config.evaluation, stream, p.plan, p.setting, config.device).evaluator
        return _both(p, name, evaluator)[retrained].live(life, missing)


def _private(p: Prepared) -> tuple[list[RequestPlan], np.ndarray]:
    """Return the requests that attacks on single samples can judge, and the positions of all their samples."""
    requests = [r for r in p.plan.requests if is_private(r)]
    return requests, np.unique(np.concatenate([r.forget for r in requests] or [np.zeros(0, dtype=np.int64)]))


def _means(requests: list[RequestPlan], rows: list[Row], last: int) -> list[Row]:
    """Return means over requests: when each was served, and at the end."""
    served = {r.name: r.event for r in requests}
    result = []
    for label, chosen in (
        ("immediate", [r for r in rows if r.event == served[r.subject]]),
        ("final", [r for r in rows if r.event == last]),
    ):
        for r in mean_rows(
            last,
            "run",
            chosen,
            ("ulira_auc", "rmia_auc", "forgetting_score_ratio", "forgetting_epsilon", "klom_median"),
        ):
            result.append(replace(r, metric=f"{label}_{r.metric}"))
    return result


class _Lives:
    """Shadow lives as arrays, life by life."""

    def __init__(
        self, p: Prepared, name: str, onlooker: _Onlooker, ids: np.ndarray, moments: list[int], retrained: bool
    ) -> None:
        self._p, self._name, self._onlooker, self._ids, self._moments = p, name, onlooker, ids, moments
        self._retrained = retrained
        self._parts = reference_parts("retrained", p.strategies.parts[name]) if retrained else p.strategies.parts[name]
        self._own = bool(others_code(part.name for part in self._parts))
        self._margins: dict[int, list[np.ndarray]] = {e: [] for e in moments}
        self._kept: dict[int, list[np.ndarray]] = {e: [] for e in moments}
        self.cost = Cost()
        self.known = True

    def margins(self, event: int) -> np.ndarray:
        """Return log odds ``[J, T + Z]`` after `event`: of all targets, then of unseen samples."""
        return np.stack(self._margins[event]).astype(np.float64)

    def kept(self, event: int) -> np.ndarray:
        """Return the mean accuracy over lives on live training data and on test data, ``[2]``."""
        return np.stack(self._kept[event]).mean(0)

    def add(self, group: Sequence[int]) -> None:
        """Live some at once, or find them in the cache."""
        started = now()
        lives = [functools.partial(self._live_once, life) for life in group]
        for points, cost in [live() for live in lives] if self._own else together(lives):
            for point, outputs in points:
                margins, kept = outputs.details.shadow_margins, outputs.details.shadow_kept
                assert kept is not None
                self.known = self.known and margins is not None
                self._margins[point.event].append(np.zeros(0) if margins is None else margins)
                self._kept[point.event].append(kept)
            self.cost += replace(cost, seconds=0.0)
        self.cost += Cost(seconds=now() - started)

    def files(self, life: int) -> list[Path]:
        """Return where a life is kept."""
        family, events_at = self._course(life)
        return [family.file_of(events, moment.event) for moment, events in events_at.items()]

    def live(self, life: int, missing: Missing) -> Outcome:
        """Live what is missing of a life, here."""
        return self._course(life)[0].live(missing)

    def _live_once(self, life: int) -> tuple[list[tuple[_Moment, Outputs]], Cost]:
        family, events_at = self._course(life)
        return list(family.compute(events_at)), family.cost

    def _course(self, life: int) -> tuple[References, dict[_Moment, tuple[Event, ...]]]:
        """Return what computes a life, and its events up to every moment."""
        p, retrained = self._p, self._retrained
        seed = (p.config.seed + 1) * _SEEDS + life + (_RETRAINED_SEEDS if retrained else 0)
        live = functools.partial(_live_alone, p, self._name, retrained, life)
        alone = Elsewhere(lambda parts: [live(part) for part in parts], lines, alone=True) if self._own else None
        family = lives_of(p, self._parts, seed, self._onlooker, alone)
        excluded = self._ids[~is_inside(life, self._ids)]
        events_at = {}
        for moment in self._moments:
            events = p.stream.events[: moment + 1]
            events_at[_Moment(moment)] = surviving(events) if retrained else shadow_events(events, excluded)
        return family, events_at
