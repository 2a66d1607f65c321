"""From the outputs after one event to its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lifelong.audits._base import Audit
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.metrics.accumulation import Accumulation, unit_means
from lifelong.metrics.answers import record_rows, request_rows, utility_rows
from lifelong.metrics.knowledge import Knowledge, stability
from lifelong.metrics.perplexity import Perplexity
from lifelong.metrics.relapse import Relapse
from lifelong.metrics.requests import RequestScores, collateral_rows, mean_rows
from lifelong.metrics.snapshots._base import Snapshot, SnapshotMetric, built_in
from lifelong.results.table import Row, row
from streams.stream import Stream


class Measure:
    """Turns outputs into rows, event by event; feeding it the stored outputs again brings it where it was."""

    def __init__(
        self,
        stream: Stream,
        plan: EvaluationPlan,
        measure: str,
        metrics: Sequence[SnapshotMetric] | None = None,
        audits: Sequence[Audit] = (),
        of_tokens: bool = False,
    ) -> None:
        """Start before the first event.

        Args:
            stream: what is lived through.
            plan: what is measured.
            measure: name of the score.
            metrics: of one model at one moment; None are those that are always measured.
            audits: that were made.
            of_tokens: whether losses are means over tokens, so that perplexities can be told.
        """
        self._metrics, self._audits = built_in() if metrics is None else metrics, audits
        self._losses: np.ndarray | None = None
        self._losses_before: dict[str, np.ndarray] = {}
        self._stream, self._plan, self._measure = stream, plan, measure
        self._accumulation = Accumulation(
            plan.unit_of, plan.position_of, plan.num_units, [u.name for u in stream.units], measure
        )
        self._relapse = Relapse("run", "raw_relapse")
        self._knowledge = Knowledge(stream.events, plan.num_units, measure)
        names = [u.name for u in stream.units]
        self._perplexity = Perplexity(plan.unit_of, plan.position_of, names) if of_tokens else None
        self._tests = np.zeros(len(plan.ids), dtype=bool)
        self._tests[plan.position_of] = True

    def start(self, outputs: Outputs) -> None:
        """Take the outputs of the initial model."""
        self._accumulation.start(outputs.scores)
        self._losses = outputs.losses

    def update(self, event: int, outputs: Outputs) -> list[Row]:
        """Take the outputs after `event`, which is one that is evaluated; return all that needs no references."""
        plan = self._plan
        alive, since, seen = plan.alive[event], plan.since[event], plan.seen[event]
        rows = self._accumulation.update(event, outputs.scores, alive, since, seen)
        rows += self._knowledge_rows(event, outputs)
        if self._perplexity is not None:
            rows += self._perplexity.update(event, outputs.losses, alive, since)
        for metric in self._metrics:
            rows += metric(Snapshot("run", event, outputs, plan, self._stream, self._measure))
        rows += self._request_rows(event, outputs)
        return rows + self._record_rows(event, outputs) + self._audit_rows(event, outputs)

    def _record_rows(self, event: int, outputs: Outputs) -> list[Row]:
        """Return what the objective's measurements tell, where records of them were made."""
        plan, detailed = self._plan, self._plan.detailed(event)
        rows = utility_rows(event, "run", plan, self._stream.source, outputs)
        for request in plan.due(event):
            rows += record_rows(event, "run", request, detailed, outputs, plan.averaged)
            rows += request_rows(event, "run", request, detailed, outputs)
        return rows

    def _audit_rows(self, event: int, outputs: Outputs) -> list[Row]:
        rows: list[Row] = []
        if self._audits and (request := self._plan.served_at(event)) is not None:
            assert self._losses is not None
            self._losses_before[request.name] = self._losses
        self._losses = outputs.losses
        for audit in self._audits:
            if audit.name in outputs.audits:
                rows += audit.rows("run", event, outputs.audits[audit.name], self._losses_before)
        return rows

    def within(self, event: int, looks: list[np.ndarray]) -> list[Row]:
        """Return how low earlier units fell within `event`, given the scores ``[N]`` at several steps of it.

        Call it after `update`.
        """
        plan = self._plan
        old = (plan.since[event] >= 0) & (plan.since[event] < event)
        before = self._accumulation.accuracy_before(event, plan.alive[event])
        old &= np.isfinite(before)
        drop = None
        if looks and old.any():
            pairs = (plan.unit_of, plan.position_of, plan.num_units, plan.alive[event])
            drop = stability(before[old], np.stack([unit_means(scores, *pairs)[0][old] for scores in looks]))
        lowest, gap = (None, None) if drop is None else drop
        n = int(old.sum())
        reason = "no unit was learned before this event" if looks else "there was no step to look at"
        return [
            row(event, "run", "stream", f"lowest_{self._measure}", lowest, n, reason),
            row(event, "run", "stream", "stability_gap", gap, n, reason),
        ]

    def _knowledge_rows(self, event: int, outputs: Outputs) -> list[Row]:
        counting = self._tests & self._plan.alive[event]
        n = int(counting.sum())
        whole = float(outputs.scores[counting].mean()) if n else None
        now = self._accumulation.previous  # that of this event, which has just been taken in
        return self._knowledge.update(event, whole, n, now, self._plan.since[event] >= 0)

    def _request_rows(self, event: int, outputs: Outputs) -> list[Row]:
        rows: list[Row] = []
        scores = RequestScores("run", event, outputs, self._plan, self._measure)
        for request in self._plan.followed(event).values():
            rows += scores.rows(request)
            rows += self._relapse.update(event, request, outputs.scores)
            if event == request.event:
                before = self._accumulation.accuracy_before(event, self._counting(event))
                after = self._accumulation.accuracy_at(event, self._counting(event))
                rows += collateral_rows(event, request, before, after, self._other_units(event))
        if rows:
            metrics = ("forget_" + self._measure, "forget_test_" + self._measure, "membership_auc", "raw_relapse")
            rows += mean_rows(event, "run", rows, metrics)
        return rows

    def _counting(self, event: int) -> np.ndarray:
        """Return the samples of collateral change: a unit's alive ones, or all of them if the unit is dead."""
        plan = self._plan
        dead_units = plan.since[event] < 0
        counting = plan.alive[event].copy()
        counting[plan.position_of[dead_units[plan.unit_of]]] = True
        return counting

    def _other_units(self, event: int) -> np.ndarray:
        """Units that were learned before, except those that this very request deletes as a whole."""
        plan = self._plan
        if not event:
            return np.zeros(plan.num_units, dtype=bool)
        just_deleted = (plan.since[event - 1] >= 0) & (plan.since[event] < 0)
        return plan.seen[event - 1] & ~just_deleted
