"""Hold a finished run against its references: compute them where they are not cached, and return the rows."""

from __future__ import annotations

import numpy as np

from lifelong.config.run import ReferenceKind, StrategyConfig, content_hash, resolve_strategy
from lifelong.evaluation.evaluator import Evaluator
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import Audit
from lifelong.files import cache_folder, code_of
from lifelong.formulas.distance import layer_distances
from lifelong.metrics import answers
from lifelong.metrics.audits import Detailed, held_out_loss, pair_rows
from lifelong.metrics.corrective import corrective_rows, recovery_rows
from lifelong.metrics.gaps import distance_rows, gap_rows, request_gap_rows, stream_gap_rows
from lifelong.metrics.over_stream import UTILITY, over_stream_rows
from lifelong.metrics.requests import attribution_rows, mean_rows
from lifelong.references.tree import Cost, Looker, Point, References, chain, points_of, reference_config
from lifelong.results.record import Record
from lifelong.results.table import Row, read_rows, row
from lifelong.setup.build import make_strategy
from lifelong.setup.preparation import Prepared
from strategies.base import Strategy
from streams.ledger import Ledger

_SECOND_SEED, _RANDOM_SEED = 1_000_003, 1_000_033
# Beside these a request is measured in detail; the others are no target of it.
_DETAILED = ("retrained", "retrained-2", "original", "no-op")
# References of one family are built alike, so their chains of events can share prefixes.
_FAMILIES = (("retrained", "original", "withheld", "fresh", "clean"), ("retrained-2",), ("no-op",), ("joint",))


class Untrained:
    """What an untrained network predicts, of a seed that no model here has: the same for all strategies of a run."""

    def __init__(self, p: Prepared, evaluator: Evaluator) -> None:
        """Build nothing until it is asked."""
        self._p, self._evaluator = p, evaluator
        self._strategy: Strategy | None = None
        self._found: dict[int, np.ndarray] = {}

    def probabilities(self, event: int) -> np.ndarray:
        """Return its distributions ``[D, K]`` at the detailed positions of an event; empty where it has none."""
        p = self._p
        if self._strategy is None:
            seed = p.config.seed + _RANDOM_SEED * (1 + p.plan.seed)
            self._strategy = make_strategy(StrategyConfig(), p.setting_of(seed), "references")
        if event not in self._found:
            found = self._evaluator.probabilities(self._strategy, p.plan.detailed(event))
            self._found[event] = np.zeros((0, 0)) if found is None else found
        return self._found[event]


def compare(
    p: Prepared, name: str, record: Record, evaluator: Evaluator, untrained: Untrained
) -> tuple[list[Row], Cost]:
    """Return the rows that hold strategy `name` against every reference that is asked for, and what that cost."""
    lived = _Lived(p, record, untrained)
    rows: list[Row] = []
    cost = Cost()
    for kinds in _FAMILIES:
        points = points_of(p.stream, tuple(k for k in p.config.references.kinds if k in kinds))
        if points:
            family = _family(p, name, points[0].kind, evaluator)
            wanted = {q: chain(p.stream, q) for q in points}
            for point, reference in family.compute(wanted):
                rows += _gaps(p, point, lived.outputs(point.event), reference)
                if point.kind in _DETAILED:
                    rows += lived.rows_beside(point, reference)
            cost += family.cost
    rows += recovery_rows(rows, p.setting.objective.measure)
    rows += attribution_rows(rows, p.setting.objective.measure)
    rows += over_stream_rows(p.stream, rows, lived.work, p.setting.objective.measure)
    return rows + _mean_gaps(p, rows), cost


class _Lived:
    """What the strategy left behind, for being looked at beside references."""

    def __init__(self, p: Prepared, record: Record, untrained: Untrained) -> None:
        self._p, self._record, self._untrained = p, record, untrained
        self._scores, self._losses = record.read_outputs(p.plan.num_outputs(len(p.stream.events) - 1))
        rows = read_rows(record.folder / "results.jsonl", ("steps", "forward", "backward", UTILITY))
        self.work = {(r.event, r.metric): r.value for r in rows if r.model == "run" and r.value is not None}
        self._run_detailed: dict[int, Detailed] = {}

    def outputs(self, event: int) -> Outputs:
        """Return the outputs after `event` with all details."""
        index = self._p.plan.num_outputs(event) - 1
        return self._record.read_details(event, self._scores[index], self._losses[index])

    def rows_beside(self, point: Point, reference: Outputs) -> list[Row]:
        """Return what attacks and audits say of the reference, of the run beside it, and once of the run itself."""
        p, event, kind = self._p, point.event, point.kind
        plan, limit = p.plan, p.config.evaluation.relearn_steps
        due = [a for n, a in enumerate(plan.audits) if point.request in {None, n} and a in plan.due(event)]
        if not due:
            return []
        rows: list[Row] = []
        first = event not in self._run_detailed
        run = self._run_detailed.setdefault(
            event, Detailed("run", event, self.outputs(event), plan, self._untrained.probabilities(event))
        )
        other = Detailed(kind, event, reference, plan, self._untrained.probabilities(event))
        if first:
            rows += run.calibration()
            for audit in plan.due(event):
                rows += run.rows(audit, self._threshold(audit), limit)
        if point.request is None:
            theirs = other.calibration()
            rows += [*theirs, *gap_rows(kind, run.calibration(), theirs)]
        for audit in due:
            threshold = self._threshold(audit)
            theirs = other.rows(audit, threshold, limit)
            rows += theirs
            rows += gap_rows(kind, run.rows(audit, threshold, limit), theirs)
            rows += pair_rows(kind, audit, run, other, plan, threshold, limit)
            if kind == "retrained" and audit.event == event:
                work = self.work.get((event, "forward"), 0.0) + self.work.get((event, "backward"), 0.0)
                visits = float(reference.details["visits"])
                share = work / visits if visits else None
                rows.append(row(event, kind, audit.request.name, "cost_ratio", share, 1, "nothing is left to retrain"))
        return rows + self._layers(point, run.outputs, reference)

    def _threshold(self, audit: Audit) -> float:
        return held_out_loss(audit, self._losses[self._p.plan.num_outputs(audit.event - 1) - 1])

    def _layers(self, point: Point, run: Outputs, reference: Outputs) -> list[Row]:
        event, kind = point.event, point.kind
        if "weights" not in run.details or "weights" not in reference.details or point.request is not None:
            return []
        a, b = run.details["weights"], reference.details["weights"]
        if len(a) != len(b):
            return []
        layers = layer_distances(a, b, self._p.setting.make_model().slices)
        whole = layer_distances(a, b, {"all": slice(None)})["all"]
        return [
            row(event, kind, "stream", "layer_distance", whole, len(a)),
            row(event, kind, "stream", "layer_distance_max", max(layers.values()), len(layers)),
        ]


def _family(p: Prepared, name: str, kind: ReferenceKind, evaluator: Evaluator) -> References:
    """Return what computes a reference and all its relatives."""
    seed = p.config.seed + (_SECOND_SEED if kind == "retrained-2" else 0)
    return lives_of(p, name, reference_config(kind, p.config.strategies[name]), seed, evaluator)


def lives_of(p: Prepared, name: str, config: StrategyConfig, seed: int, evaluator: Looker) -> References:
    """Return what computes lives of one strategy under one seed, on the data of a run."""
    setting = p.setting_of(seed)
    task_of = p.stream.task_of
    decisive = {k: p.resolved[k] for k in ("model", "objective", "training", "threads", "device")}
    decisive["evaluation"] = {k: v for k, v in p.resolved["evaluation"].items() if k != "seed"}  # drawn from afterwards
    strategy = resolve_strategy(config, name)
    identity = content_hash(
        [
            code_of([decisive, strategy]),
            p.data_digest,
            seed,
            decisive,
            strategy,
            p.plan.ids.tolist(),
            [u.classes for u in p.stream.units],
            None if task_of is None else task_of.tolist(),
        ]
    )
    return References(
        lambda: make_strategy(config, setting, f"strategies.{name}"),
        lambda: Ledger(p.stream.source, task_of, p.config.device),
        evaluator,
        identity,
        cache_folder() / "references",
    )


def _gaps(p: Prepared, point: Point, own: Outputs, reference: Outputs) -> list[Row]:
    """Return the rows of one reference at one moment."""
    plan, measure, event, kind = p.plan, p.setting.objective.measure, point.event, point.kind
    rows = []
    if kind != "no-op":
        rows += stream_gap_rows(event, kind, own, reference, plan, measure)
        theirs = corrective_rows(kind, event, reference, plan, measure)
        rows += [*theirs, *gap_rows(kind, corrective_rows("run", event, own, plan, measure), theirs)]
    detailed = plan.detailed(event)
    due = plan.due(event)
    if kind != "no-op":
        rows += answers.utility_rows(event, kind, plan, detailed, reference)
        if kind in ("retrained", "retrained-2"):  # the others have seen it
            rows += answers.joint_rows(event, kind, due, detailed, own, reference)
        theirs = answers.audit_rows(event, kind, due, reference)
        rows += [*theirs, *answers.gaps_of(kind, answers.audit_rows(event, "run", due, own), theirs)]
    for number, audit in enumerate(plan.audits):
        if point.request not in {None, number} or not audit.event <= event < audit.until:
            continue
        # A request has a curve of gaps: every later reference is held against it, too.
        rows += request_gap_rows(event, kind, audit, own, reference, plan, measure)
        if audit in due:
            rows += distance_rows(event, kind, audit, detailed, own, reference)
            rows += answers.gap_rows(event, kind, audit, detailed, own, reference)
    return rows


_MEANT = (
    *("average_gap", "tow", "tow_mia", "tow_forget", "tow_retain", "tow_test"),
    *("mia_efficacy", "gap_mia_efficacy", "gap_entropy_member_rate", "gap_attack_accuracy", "gap_entropy_auc"),
    *("calibrated_loss_auc", "calibrated_confidence_auc", "calibrated_entropy_auc", "streisand", "gap_membership_ks"),
    *("gap_zrf", "activation_distance", "agreement", "anamnesis", "gap_readout_accuracy"),
)


def _mean_gaps(p: Prepared, rows: list[Row]) -> list[Row]:
    """Return means over requests: when each was served (immediate_*), and at the end (final_*)."""
    measure, last = p.setting.objective.measure, len(p.stream.events) - 1
    served = {a.request.name: a.event for a in p.plan.audits}
    metrics = (f"gap_forget_{measure}", f"gap_forget_test_{measure}", "gap_membership_auc", "js", "dd_cosine")
    there = {r.metric for r in rows}
    detailed = tuple(m for m in _MEANT if m in there)
    result = []
    for kind in dict.fromkeys(r.model for r in rows):
        mine = [r for r in rows if r.model == kind and r.subject in served]
        immediate = [r for r in mine if r.event == served[r.subject]]
        final = [r for r in mine if r.event == last]
        for label, chosen in (("immediate", immediate), ("final", final)):
            more = detailed if kind in _DETAILED else ()
            if label == "immediate" and kind == "retrained":
                more += ("cost_ratio",)
            if kind == "no-op":
                more += ("attribution",)
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
