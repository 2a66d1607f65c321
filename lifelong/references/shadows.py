"""Shadow lives: the same stream under other seeds, in each of which a random half of the forgotten data never occurs.

One set of lives serves every request and every moment: a sample of a request is *in* the lives that learned it and
were asked to forget it, and *out* of those in which it never was. Just before the request the same lives give LiRA on
a model that has forgotten nothing, the control that an attack works. They are cached like references, and shared by
all runs that have the same strategy; the retrained ones by all strategies with the same learner. Small models of
several lives are trained at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lifelong.evaluation.evaluator import Evaluator
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import Audit
from lifelong.formulas.forgetting_score import epsilon_bound, forgetting_score
from lifelong.formulas.klom import klom
from lifelong.formulas.per_sample import Attack, attack, rmia
from lifelong.metrics.audits import counting_tests, is_private
from lifelong.metrics.requests import mean_rows
from lifelong.references.comparison import lives_of
from lifelong.references.tree import Cost, reference_config
from lifelong.results.table import Row, row
from lifelong.setup.preparation import Prepared
from strategies.base import Strategy
from strategies.parts.together import together
from streams.events import Event, Experience, Request
from streams.randomness import Key
from streams.timeline import surviving, with_ids

STACKED = 16
"""How many lives go on at once; small models are trained as one (`strategies.parts.together`)."""
_SEEDS = 4_000_037
_POPULATION = 200
_NO_CLASS = "the objective predicts no class"


@dataclass(frozen=True, slots=True)
class _Moment:
    """A shadow beside one event of the main run."""

    event: int


class _Onlooker:
    """Measures what shadows are lived for: log odds of forgotten and unseen samples, and accuracy on what is kept."""

    def __init__(self, p: Prepared, evaluator: Evaluator, targets: np.ndarray) -> None:
        tests = counting_tests(p.plan, len(p.stream.events) - 1)
        unseen = tests[(Key(0) / "population").order(p.plan.ids[tests])[:_POPULATION]]
        self._plan, self._evaluator, self._targets = p.plan, evaluator, np.concatenate([targets, unseen])

    def evaluate(self, strategy: Strategy, event: int) -> Outputs:
        """Return the log odds of the targets and of unseen samples, and mean scores on live and on test data."""
        scores = self._evaluator.evaluate(strategy).scores
        margins = self._evaluator.margins(strategy, self._targets)
        nothing = np.zeros(0, dtype=np.float32)
        means = [scores[part].mean() if len(part) else np.nan for part in self._kept(event)]
        details = {"kept": np.array(means, dtype=np.float32)}
        if margins is not None:
            details["margins"] = margins
        return Outputs(nothing, nothing, details)

    def looks_at(self, event: int) -> bytes:
        """Return what is measured at `event`."""
        return b"shadow" + b"|".join(part.tobytes() for part in (self._targets, *self._kept(event)))

    def _kept(self, event: int) -> tuple[np.ndarray, np.ndarray]:
        plan = self._plan
        return plan.probe[plan.probe_live[event]], counting_tests(plan, event)


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
        requests = [_without(r, excluded) for r in event.requests]
        result.append(replace(event, requests=tuple(r for r in requests if len(r.sample_ids))))
    return tuple(result)


def _without(request: Request, excluded: np.ndarray) -> Request:
    keys = np.array(request.keys)
    if request.scope == "sample":
        keys = keys[~np.isin(keys, excluded)]
    kept = [part[~np.isin(part, excluded)] for part in (request.sample_ids, request.barred_ids)]
    return replace(request, keys=tuple(keys.tolist()), sample_ids=kept[0], barred_ids=kept[1])


def shadow_rows(p: Prepared, name: str, evaluator: Evaluator) -> tuple[list[Row], Cost]:
    """Return what attacks on single samples find in strategy `name`, and what the lives cost."""
    audits = [a for a in p.plan.audits if is_private(a)]
    count, last = p.config.references.shadows, len(p.stream.events) - 1
    if not count or not audits:
        return [], Cost()
    targets = np.unique(np.concatenate([a.forget for a in audits]))
    onlooker = _Onlooker(p, evaluator, targets)
    ids = p.plan.ids[targets]
    after = {e for a in audits for e in (a.event, last)}
    lives = _Lives(p, name, onlooker, ids, sorted(after | {a.event - 1 for a in audits}))
    retrained = _Lives(p, name, onlooker, ids, sorted(after))
    for start in range(0, count, STACKED):
        group = range(start, min(start + STACKED, count))
        lives.add(group, retrained=False)
        retrained.add(group, retrained=True)
    inside = np.stack([is_inside(life, ids) for life in range(count)])
    rows: list[Row] = []
    for audit in audits:
        columns = np.searchsorted(targets, audit.forget)
        if not lives.known:
            rows.append(row(audit.event, "run", audit.request.name, "ulira_auc", None, len(columns), _NO_CLASS))
            continue
        before = lives.margins(audit.event - 1)
        rows.append(_auc_row(audit.event, audit, "lira_auc", attack(before[:, columns], inside[:, columns])))
        for event in sorted({audit.event, last} if audit.until > last else {audit.event}):
            margins = lives.margins(event)
            rows += _attack_rows(event, audit, attack(margins[:, columns], inside[:, columns]))
            rows += _rmia_rows(event, audit, margins[:, columns], margins[:, len(targets) :], inside[:, columns])
            rows += _score_rows(event, audit, lives, retrained, inside, columns)
    return rows + _means(audits, rows, last), lives.cost + retrained.cost


def _means(audits: list[Audit], rows: list[Row], last: int) -> list[Row]:
    """Return means over requests: when each was served, and at the end."""
    served = {a.request.name: a.event for a in audits}
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

    def __init__(self, p: Prepared, name: str, onlooker: _Onlooker, ids: np.ndarray, moments: list[int]) -> None:
        self._p, self._name, self._onlooker, self._ids, self._moments = p, name, onlooker, ids, moments
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

    def add(self, group: Sequence[int], retrained: bool) -> None:
        """Live some at once, or find them in the cache."""
        started = time.perf_counter()
        for points, cost in together([lambda life=life: self._live(life, retrained) for life in group]):  # type: ignore[misc]
            for point, outputs in points:
                self.known = self.known and "margins" in outputs.details
                self._margins[point.event].append(outputs.details.get("margins", np.zeros(0)))
                self._kept[point.event].append(outputs.details["kept"])
            self.cost += replace(cost, seconds=0.0)
        self.cost += Cost(seconds=time.perf_counter() - started)

    def _live(self, life: int, retrained: bool) -> tuple[list[tuple[_Moment, Outputs]], Cost]:
        p, strategy = self._p, self._p.config.strategies[self._name]
        seed = (p.config.seed + 1) * _SEEDS + life
        if retrained:
            strategy = reference_config("retrained", strategy)
        family = lives_of(p, self._name, strategy, seed, self._onlooker)
        excluded = self._ids[~is_inside(life, self._ids)]
        wanted = {}
        for moment in self._moments:
            events = p.stream.events[: moment + 1]
            wanted[_Moment(moment)] = surviving(events) if retrained else shadow_events(events, excluded)
        return list(family.compute(wanted)), family.cost


def _auc_row(event: int, audit: Audit, metric: str, found: Attack | None) -> Row:
    few = "there are too few shadows"
    value, n = (None, 0) if found is None else (found.auc, found.n)
    return row(event, "run", audit.request.name, metric, value, n, few)


def _attack_rows(event: int, audit: Audit, found: Attack | None) -> Iterator[Row]:
    yield _auc_row(event, audit, "ulira_auc", found)
    if found is not None:
        for metric in ("low", "high", "accuracy", "tpr_1", "tpr_01"):
            yield row(event, "run", audit.request.name, f"ulira_{metric}", getattr(found, metric), found.n)


def _rmia_rows(event: int, audit: Audit, phi: np.ndarray, population: np.ndarray, inside: np.ndarray) -> Iterator[Row]:
    found = rmia(phi, population, inside)
    for metric in ("auc", "low", "high", "tpr_1"):
        value, n = (None, 0) if found is None else (getattr(found, metric), found.n)
        why = "there are too few shadows, or no unseen samples"
        yield row(event, "run", audit.request.name, f"rmia_{metric}", value, n, why)


def _score_rows(
    event: int, audit: Audit, lives: _Lives, retrained: _Lives, inside: np.ndarray, columns: np.ndarray
) -> Iterator[Row]:
    """Yield the challenge's score and KLoM: lives that unlearned a sample against lives retrained without it."""
    ours, theirs = lives.margins(event)[:, columns], retrained.margins(event)[:, columns]
    half = len(theirs) // 2
    a = [ours[inside[:, c], i] for i, c in enumerate(columns)]
    b, other = ([part[:, i] for i in range(len(columns))] for part in (theirs[half:], theirs[:half]))
    score, eps = forgetting_score(a, b)
    null, _ = forgetting_score(other, b)
    ratio = np.prod(lives.kept(event) / retrained.kept(event))
    bounds = [epsilon_bound(x, y) for x, y in zip(a, b, strict=True)]
    apart, apart_null = (np.array([klom(x, y) for x, y in zip(side, b, strict=True)]) for side in (a, other))
    values = {
        "forgetting_score": score,
        "forgetting_score_null": null,
        "forgetting_score_ratio": score / null if null else None,
        "forgetting_score_final": score * float(ratio),
        "forgetting_epsilon": float(np.median(eps)),
        "forgetting_epsilon_bound": float(np.mean(bounds)),
        "klom_median": float(np.median(apart)),
        "klom_95": float(np.percentile(apart, 95)),
        "klom_median_null": float(np.median(apart_null)),
    }
    for metric, value in values.items():
        yield row(event, "run", audit.request.name, metric, value, len(columns), "two sets of retrained lives score 0")
