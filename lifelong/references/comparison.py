"""Hold a finished run against its references: compute them where they are not cached, and return the rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lifelong.audits._base import DETAILED, Audit
from lifelong.config.parts import StrategyParts
from lifelong.config.run import DECIDES_LIVES, ReferenceKind, RunConfig, StrategyConfig, content_hash
from lifelong.evaluation.distributions import Distributions
from lifelong.evaluation.evaluator import Evaluator
from lifelong.evaluation.outputs import Outputs
from lifelong.files import cache_folder, code_of
from lifelong.metrics import answers
from lifelong.metrics.detailed import Detailed, Known
from lifelong.metrics.gaps import cost_row, distance_rows, floor_row, gap_rows, request_gap_rows, stream_gap_rows
from lifelong.metrics.over_stream import UTILITY, over_stream_rows
from lifelong.metrics.pairs import pair_rows
from lifelong.metrics.relapse import Relapse, mean_relapse
from lifelong.metrics.requests import RequestScores, attribution_rows, mean_rows
from lifelong.metrics.snapshots._base import Snapshot, SnapshotMetric
from lifelong.metrics.snapshots.corrective import recovery_rows
from lifelong.processes.fresh import calls
from lifelong.processes.settings import torch_settings
from lifelong.references.points import Point, chain, wanted_points
from lifelong.references.tree import Cost, Elsewhere, Looker, Missing, References, lines, reference_parts, shares
from lifelong.references.under_way import UnderWay
from lifelong.results.record import Record
from lifelong.results.table import Row, read_rows
from lifelong.setup.build import build_strategy, make_strategy
from lifelong.setup.instruments import Instruments, make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.base import Strategy
from strategies.outcome import Outcome
from streams.ledger import Ledger
from streams.registry import others_code
from streams.stream import Stream

_SECOND_SEED, _RANDOM_SEED = 1_000_003, 1_000_033
BASELINES: tuple[ReferenceKind, ...] = ("retrained-2", "withheld", "original")
"""What is held against the retrained reference beside the run: a second retraining, and what doing nothing gets."""
# References of one family are built alike, so their chains of events can share prefixes.
_FAMILIES: tuple[tuple[ReferenceKind, ...], ...] = (
    ("retrained", "original", "withheld", "fresh", "clean"),
    ("retrained-2",),
    ("no-op",),
    ("joint",),
)


class Shared:
    """What all strategies of a run have in common: an untrained network, and what attacks told of references.

    Attributes:
        workers: processes that may live references beside each other.
    """

    def __init__(self, p: Prepared, evaluator: Evaluator, workers: int = 1) -> None:
        """Build nothing until it is asked."""
        self._p, self._evaluator, self.workers = p, evaluator, workers
        self._strategy: Strategy | None = None
        self._distributions: dict[int, Distributions | None] = {}
        self._known: dict[tuple[ReferenceKind, int, str], Known] = {}

    def known(self, point: Point, name: str) -> Known:
        """Return what is known of a reference at its event, by its name in the cache; others may add to it."""
        return self._known.setdefault((point.kind, point.event, name), Known())

    def distributions(self, event: int) -> Distributions | None:
        """Return what an untrained network predicts, of a seed that no model here has, at the positions of an event."""
        p = self._p
        if self._strategy is None:
            seed = p.config.seed + _RANDOM_SEED * (1 + p.plan.seed)
            self._strategy = make_strategy(StrategyConfig(), p.setting_of(seed), "references")
        if event not in self._distributions:
            self._distributions[event] = self._evaluator.distributions(self._strategy, p.plan.detailed(event))
        return self._distributions[event]


def compare(p: Prepared, name: str, record: Record, instruments: Instruments, shared: Shared) -> tuple[list[Row], Cost]:
    """Return the rows that hold strategy `name` against every reference that is asked for, and what that cost."""
    evaluator, measure = instruments.evaluator, p.setting.objective.measure
    lived = _Lived(p, record, shared, instruments.audits)
    rows: list[Row] = []
    relapse, relapses = Relapse("retrained", "relapse"), []
    cost = Cost()
    for kinds in _FAMILIES:
        points = wanted_points(p.stream, p.config.references, kinds)
        if points:
            family = _family(p, name, points[0].kind, evaluator, shared.workers, record.references)
            wanted = {q: chain(p.stream, q, p.config.service.copies) for q in points}
            for point, reference in family.compute(wanted):
                outputs = lived.outputs(point.event)
                if p.config.recording.keep != "numbers" and point.kind in DETAILED and point.request is None:
                    for audit in instruments.audits:
                        if audit.shows and audit.name in reference.audits:
                            record.write_shown(point.event, point.kind, audit.shown(reference.audits[audit.name]))
                rows += _gaps(p, point, outputs, reference, instruments.metrics)
                rows += _audit_gaps(p, point, outputs, reference, instruments.audits, lived.losses_before)
                if point.kind == "retrained":
                    for request in p.plan.followed(point.event).values():
                        relapses += relapse.update(point.event, request, outputs.scores, reference.scores)
                if point.kind in DETAILED:
                    rows += lived.rows_beside(point, reference, family.name_of(wanted[point], point.event))
            cost += family.cost
    rows += _beside_retrained(p, name, evaluator)
    rows += relapses + mean_relapse(relapses)
    rows += recovery_rows(rows, measure)
    rows += attribution_rows(rows, measure, p.catalogue.is_share(measure))
    rows += over_stream_rows(p.stream, rows, lived.work, measure)
    return rows + _mean_gaps(p, rows, instruments.audits), cost


class _Lived:
    """What the strategy left behind, for being looked at beside references."""

    def __init__(self, p: Prepared, record: Record, shared: Shared, audits: Sequence[Audit]) -> None:
        self._p, self._record, self._shared = p, record, shared
        self._stored = record.stored(p.plan.num_outputs(len(p.stream.events) - 1))
        rows = read_rows(record.folder / "results.jsonl", ("steps", "forward", "backward", UTILITY))
        self.work = {(r.event, r.metric): r.value for r in rows if r.model == "run" and r.value is not None}
        before = {r.name: p.plan.num_outputs(r.event - 1) - 1 for r in p.plan.requests} if audits else {}
        self.losses_before = {name: self._stored[number].losses for name, number in before.items()}
        self._run_detailed: dict[int, Detailed] = {}

    def outputs(self, event: int) -> Outputs:
        """Return the outputs after `event` with all details."""
        return self._record.read_details(event, self._stored[self._p.plan.num_outputs(event) - 1])

    def rows_beside(self, point: Point, reference: Outputs, reference_name: str) -> list[Row]:
        """Return what attacks say of the reference, of the run beside it, and once of the run itself."""
        event, kind, plan = point.event, point.kind, self._p.plan
        due = [r for r in plan.due(event) if point.request is None or r.name == plan.requests[point.request].name]
        if not due:
            return []
        rows: list[Row] = []
        first = event not in self._run_detailed
        random = self._shared.distributions(event)
        if first:
            self._run_detailed[event] = Detailed("run", event, self.outputs(event), plan, random)
        run = self._run_detailed[event]
        reference_details = Detailed(kind, event, reference, plan, random, self._shared.known(point, reference_name))
        if first:
            rows += run.calibration()
            for request in plan.due(event):
                rows += [*run.rows(request), *run.p_values(request)]
        if point.request is None:
            reference_rows = reference_details.calibration()
            rows += [*reference_rows, *gap_rows(kind, run.calibration(), reference_rows)]
        for request in due:
            reference_rows = reference_details.rows(request)
            rows += [*reference_rows, *gap_rows(kind, run.rows(request), reference_rows)]
            rows += reference_details.p_values(request) if kind == "retrained" else []
            rows += pair_rows(kind, request, run, reference_details, plan)
            if kind == "retrained" and request.event == event:
                assert reference.details.visits is not None
                work = self.work.get((event, "forward"), 0.0) + self.work.get((event, "backward"), 0.0)
                rows.append(cost_row(event, kind, request, work, float(reference.details.visits)))
        return rows


def reference_files(p: Prepared, name: str, instruments: Instruments) -> dict[Path, int]:
    """Return where the references of strategy `name` are kept, each with the event that it stands beside."""
    files: dict[Path, int] = {}
    for kinds in _FAMILIES:
        points = wanted_points(p.stream, p.config.references, kinds)
        if points:
            family = _family(p, name, points[0].kind, instruments.evaluator)
            for q in points:
                files[family.file_of(chain(p.stream, q, p.config.service.copies), q.event)] = q.event
    return files


def _beside_retrained(p: Prepared, name: str, evaluator: Evaluator) -> list[Row]:
    """Return how far other references are from the retrained one: the noise floor, and what doing nothing gets."""
    kinds = p.config.references.kinds
    rows: list[Row] = []
    for kind in (k for k in BASELINES if k in kinds and "retrained" in kinds):
        # both have just been computed, and stand beside the same events
        both = [
            _family(p, name, of, evaluator).compute(
                {q: chain(p.stream, q) for q in wanted_points(p.stream, p.config.references, (of,))}
            )
            for of in (kind, "retrained")
        ]
        for (point, other), (_, retrained) in zip(*both, strict=True):
            detailed = p.plan.detailed(point.event)
            for request in p.plan.due(point.event):
                rows.append(floor_row(point.event, kind, request, detailed, other, retrained))
    return rows


def _family(
    p: Prepared,
    name: str,
    kind: ReferenceKind,
    evaluator: Evaluator,
    workers: int = 1,
    under_way: Path | None = None,
) -> References:
    """Return what computes a reference and all its relatives; lives that are not over are kept `under_way`."""
    parts, seed = reference_parts(kind, p.strategies.parts[name]), _seed(p, kind)
    own = others_code(part.name for part in parts)
    live = functools.partial(_live_elsewhere, p, name, kind, workers, under_way)
    elsewhere = None
    if own:
        elsewhere = Elsewhere(live, lines, alone=True)
    elif workers > 1:
        elsewhere = Elsewhere(live, functools.partial(shares, count=workers), alone=False)
    return lives_of(p, parts, seed, evaluator, elsewhere, under_way)


def _seed(p: Prepared, kind: ReferenceKind) -> int:
    return p.config.seed + (_SECOND_SEED if kind == "retrained-2" else 0)


# Why: docs/decisions.md#lives-that-are-compared-share-no-process
def _live_elsewhere(
    p: Prepared, name: str, kind: ReferenceKind, workers: int, under_way: Path | None, parts: Sequence[Missing]
) -> list[Outcome]:
    """Live where nobody has lived before: what a user's file keeps in its module would make all lives alike."""
    config = p.config.model_copy(update={"strategies": {name: p.config.strategies[name]}})
    places = [None if under_way is None else under_way / str(number) for number in range(len(parts))]
    given = [(config, p.stream, name, kind, place, part) for place, part in zip(places, parts, strict=True)]
    return calls(_live_here, given, workers)


def _live_here(
    config: RunConfig, stream: Stream, name: str, kind: ReferenceKind, under_way: Path | None, missing: Missing
) -> Outcome:
    p = prepare(config, stream)
    with torch_settings(config):
        evaluator = make_instruments(config.evaluation, stream, p.plan, p.setting, config.device).evaluator
        parts, seed = reference_parts(kind, p.strategies.parts[name]), _seed(p, kind)
        return lives_of(p, parts, seed, evaluator, under_way=under_way).live(missing)


def lives_of(
    p: Prepared,
    parts: StrategyParts,
    seed: int,
    evaluator: Looker,
    elsewhere: Elsewhere | None = None,
    under_way: Path | None = None,
) -> References:
    """Return what computes lives of one strategy under one seed, on the data of a run.

    Args:
        p: the run.
        parts, seed: what is built.
        evaluator: what measures it.
        elsewhere: how lives go on in other processes; None to live here.
        under_way: folder for states of lives that are not over; None keeps none.
    """
    setting = p.setting_of(seed)
    task_of = p.stream.task_of
    decisive = {k: p.resolved[k] for k in DECIDES_LIVES}
    afterwards = {"seed", "metrics"}  # what is made of outputs
    decisive["evaluation"] = {k: v for k, v in p.resolved["evaluation"].items() if k not in afterwards}
    strategy = parts.data()
    identity = content_hash(
        [
            code_of([decisive, strategy], p.own_code),
            p.data_digest,
            seed,
            decisive,
            strategy,
            p.plan.ids.tolist(),
            [u.classes for u in p.stream.units],
            None if task_of is None else task_of.tolist(),
        ]
    )
    minutes = p.config.recording.checkpoint_minutes
    every = None if minutes is None else 60 * minutes
    return References(
        lambda: build_strategy(parts, setting),
        lambda: Ledger(p.stream.source, task_of, p.config.device),
        evaluator,
        identity,
        p.secret,
        cache_folder() / "references",
        elsewhere,
        None if under_way is None else UnderWay(under_way, identity, p.config.device, every),
    )


def _gaps(p: Prepared, point: Point, run: Outputs, reference: Outputs, metrics: Sequence[SnapshotMetric]) -> list[Row]:
    """Return the rows of one reference at one moment."""
    plan, measure, event, kind = p.plan, p.setting.objective.measure, point.event, point.kind
    detailed, due = plan.detailed(event), plan.due(event)
    due_names = {r.name for r in due}
    rows = []
    if kind != "no-op":
        rows += stream_gap_rows(event, kind, run, reference, plan, measure)
        rows += _snapshot_gaps(p, point, run, reference, metrics)
        rows += answers.utility_rows(event, kind, plan, p.stream.source, reference)
        if kind in ("retrained", "retrained-2"):  # the others have seen it
            rows += answers.joint_rows(event, kind, due, detailed, run, reference)
    scores = [RequestScores(model, event, o, plan, measure) for model, o in (("run", run), (kind, reference))]
    for number, request in plan.followed(event).items():
        if point.request not in {None, number}:
            continue
        # A request has a curve of gaps: every later reference is held against it, too.
        rows += request_gap_rows(kind, request, *scores)
        if request.name in due_names:
            rows += distance_rows(event, kind, request, detailed, run, reference)
            rows += answers.gap_rows(event, kind, request, detailed, run, reference, plan.averaged)
    return rows


def _snapshot_gaps(
    p: Prepared, point: Point, run: Outputs, reference: Outputs, metrics: Sequence[SnapshotMetric]
) -> list[Row]:
    """Return what the metrics of one model at one moment say of the reference, and of the run minus the reference."""
    rows: list[Row] = []
    more = (p.plan, p.stream, p.setting.objective.measure)
    for metric in metrics:
        reference_rows = metric(Snapshot(point.kind, point.event, reference, *more))
        rows += [
            *reference_rows,
            *gap_rows(point.kind, metric(Snapshot("run", point.event, run, *more)), reference_rows),
        ]
    return rows


def _audit_gaps(
    p: Prepared,
    point: Point,
    run: Outputs,
    reference: Outputs,
    audits: Sequence[Audit],
    losses_before: Mapping[str, np.ndarray],
) -> list[Row]:
    """Return what audits say of the reference, of the run minus the reference, and of both together."""
    rows: list[Row] = []
    event, kind = point.event, point.kind
    for audit in audits:
        if kind not in audit.beside or audit.name not in run.audits or audit.name not in reference.audits:
            continue
        run_findings, reference_findings = run.audits[audit.name], reference.audits[audit.name]
        run_rows = audit.rows("run", event, run_findings, losses_before)
        reference_rows = audit.rows(kind, event, reference_findings, losses_before)
        audit_rows = [*reference_rows, *gap_rows(kind, run_rows, reference_rows)]
        audit_rows += audit.rows_beside(kind, event, run_findings, reference_findings, losses_before)
        subject = None if point.request is None else p.plan.requests[point.request].name
        rows += [r for r in audit_rows if subject in {None, r.subject}]
    return rows


_MEANT = (
    *("average_gap", "tow", "tow_mia", "tow_forget", "tow_retain", "tow_test"),
    *("mia_efficacy", "gap_mia_efficacy", "gap_entropy_member_rate", "gap_attack_accuracy", "gap_entropy_auc"),
    *("calibrated_loss_auc", "calibrated_confidence_auc", "calibrated_entropy_auc", "streisand", "gap_membership_ks"),
    *("gap_zrf", "activation_distance", "agreement"),
)


def _mean_gaps(p: Prepared, rows: list[Row], audits: Sequence[Audit]) -> list[Row]:
    """Return means over requests: when each was served (immediate_*), and at the end (final_*)."""
    measure, last = p.setting.objective.measure, len(p.stream.events) - 1
    served = {r.name: r.event for r in p.plan.requests}
    metrics = (f"gap_forget_{measure}", f"gap_forget_test_{measure}", "gap_membership_auc", "js", "dd_cosine")
    there = {r.metric for r in rows}
    detailed = tuple(m for m in (*_MEANT, *(m for a in audits for m in a.averaged)) if m in there)
    result = []
    for kind in dict.fromkeys(r.model for r in rows):
        of_requests = [r for r in rows if r.model == kind and r.subject in served]
        immediate = [r for r in of_requests if r.event == served[r.subject]]
        final = [r for r in of_requests if r.event == last]
        for label, chosen in (("immediate", immediate), ("final", final)):
            more = detailed if kind in DETAILED else ()
            if label == "immediate" and kind == "retrained":
                more += ("cost_ratio",)
            if kind == "no-op":
                more += ("attribution",)
            if kind in BASELINES and "js_to_retrained" in there:
                more += ("js_to_retrained",)
            for r in mean_rows(last, kind, chosen, (*metrics, *more)):
                result.append(_renamed(r, f"{label}_{r.metric}"))
            absolute = [_absolute(r) for r in chosen if r.metric.startswith("gap_")]
            for r in mean_rows(last, kind, absolute, metrics[:3]):
                result.append(_renamed(r, f"{label}_abs_{r.metric}"))
    return result


def _renamed(r: Row, metric: str) -> Row:
    return Row(r.event, r.model, r.subject, metric, r.value, r.n, r.reason)


def _absolute(r: Row) -> Row:
    return Row(r.event, r.model, r.subject, r.metric, None if r.value is None else abs(r.value), r.n, r.reason)
