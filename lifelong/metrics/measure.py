"""From the outputs after one event to its rows."""

from __future__ import annotations

import numpy as np

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.metrics.accumulation import Accumulation, unit_means
from lifelong.metrics.answers import audit_rows, request_rows, utility_rows
from lifelong.metrics.corrective import corrective_rows
from lifelong.metrics.knowledge import Knowledge, stability
from lifelong.metrics.perplexity import Perplexity
from lifelong.metrics.requests import Relapse, collateral_rows, mean_rows, scores_of, service_rows
from lifelong.metrics.selection import selection_rows
from lifelong.results.table import Row, row
from strategies.base import State
from strategies.parts.model import num_bytes
from strategies.step import Step
from streams.events import DeletionRequest
from streams.stream import Stream


class Measure:
    """Turns outputs into rows, event by event; feeding it the stored outputs again brings it where it was."""

    def __init__(self, stream: Stream, plan: EvaluationPlan, measure: str) -> None:
        """Start before the first event."""
        self._stream, self._plan, self._measure = stream, plan, measure
        self._accumulation = Accumulation(
            plan.unit_of, plan.position_of, plan.num_units, [u.name for u in stream.units], measure
        )
        self._relapse = Relapse(measure)
        self._knowledge = Knowledge(stream.events, plan.num_units, measure)
        names = [u.name for u in stream.units]
        self._perplexity = Perplexity(plan.unit_of, plan.position_of, names) if plan.is_text else None
        self._tests = np.zeros(len(plan.ids), dtype=bool)
        self._tests[plan.position_of] = True

    def start(self, outputs: Outputs) -> None:
        """Take the outputs of the initial model."""
        self._accumulation.start(outputs.scores)

    def update(self, event: int, outputs: Outputs) -> list[Row]:
        """Take the outputs after `event`, which is one that is evaluated; return all that needs no references."""
        plan = self._plan
        alive, since, seen = plan.alive[event], plan.since[event], plan.seen[event]
        rows = self._accumulation.update(event, outputs.scores, alive, since, seen)
        rows += self._knowledge_rows(event, outputs)
        if self._perplexity is not None:
            rows += self._perplexity.update(event, outputs.losses, alive, since)
        live = plan.probe[plan.probe_live[event]]
        retained = float(outputs.scores[live].mean()) if len(live) else None
        nothing = "no training sample of the probe is live"
        rows.append(row(event, "run", "stream", f"retain_{self._measure}", retained, len(live), nothing))
        rows += corrective_rows("run", event, outputs, plan, self._measure)
        rows += self._request_rows(event, outputs)
        return rows + self._answer_rows(event, outputs)

    def _answer_rows(self, event: int, outputs: Outputs) -> list[Row]:
        """Return what answers in text are like, where records of them were made."""
        if outputs.records is None:
            return []
        plan, detailed = self._plan, self._plan.detailed(event)
        rows = utility_rows(event, "run", plan, detailed, outputs)
        rows += audit_rows(event, "run", plan.due(event), outputs)
        for audit in plan.due(event):
            rows += request_rows(event, "run", audit, detailed, outputs)
        return rows

    def within(self, event: int, looks: list[np.ndarray]) -> list[Row]:
        """Return how low earlier units fell within `event`, given the scores ``[N]`` at several steps of it.

        Call it after `update`.
        """
        plan = self._plan
        old = (plan.since[event] >= 0) & (plan.since[event] < event)
        before = self._accumulation.accuracy_before(event, plan.alive[event])
        old &= np.isfinite(before)
        found = None
        if looks and old.any():
            pairs = (plan.unit_of, plan.position_of, plan.num_units, plan.alive[event])
            found = stability(before[old], np.stack([unit_means(scores, *pairs)[0][old] for scores in looks]))
        lowest, gap = (None, None) if found is None else found
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
        for audit in self._plan.audits:
            if not audit.event <= event < audit.until:
                continue
            scores = scores_of("run", event, audit, outputs, self._plan, self._measure)
            rows += scores + self._relapse.update(event, audit, scores)
            if event == audit.event:
                before = self._accumulation.accuracy_before(event, self._counting(event))
                after = self._accumulation.accuracy_at(event, self._counting(event))
                rows += collateral_rows(event, audit, before, after, self._others(event))
        if rows:
            metrics = ("forget_" + self._measure, "forget_test_" + self._measure, "membership_auc", "relapse")
            rows += mean_rows(event, "run", rows, metrics)
        return rows

    def _counting(self, event: int) -> np.ndarray:
        """Return the samples of collateral change: a unit's alive ones, or all of them if the unit is dead."""
        plan = self._plan
        dead_units = plan.since[event] < 0
        counting = plan.alive[event].copy()
        counting[plan.position_of[dead_units[plan.unit_of]]] = True
        return counting

    def _others(self, event: int) -> np.ndarray:
        """Units that were learned before, except those that this very request deletes as a whole."""
        plan = self._plan
        if not event:
            return np.zeros(plan.num_units, dtype=bool)
        just_deleted = (plan.since[event - 1] >= 0) & (plan.since[event] < 0)
        return plan.seen[event - 1] & ~just_deleted


def cost_rows(event: int, stream: Stream, plan: EvaluationPlan, step: Step, state: State, stored: int) -> list[Row]:
    """Return what an event cost (work, data read, the size of what is kept), and what the strategy tells of itself.

    Args:
        event: its index.
        stream, plan: to find the request.
        step: what happened.
        state: the strategy's state afterwards.
        stored: raw samples it keeps.
    """
    outcome = step.outcome
    values = {
        "steps": outcome.steps,
        "forward": outcome.forward,
        "backward": outcome.backward,
        "samples_read": step.samples_read,
        "state_bytes": num_bytes(state) + stored * stream.source.sample_bytes,
        "skipped": int(step.skipped),
    }
    rows = [row(event, "run", "event", name, float(value), 1) for name, value in values.items()]
    rows += [row(event, "run", "event", f"loss_{name}", value, 1) for name, value in sorted(outcome.losses.items())]
    rows += [row(event, "run", s, name, v, 1) for s, traits in outcome.traits.items() for name, v in traits.items()]
    if outcome.draw is not None:
        rows += selection_rows(event, outcome.draw, stream.source)
    happened = stream.events[event]
    if isinstance(happened, DeletionRequest):
        audit = next(a for a in plan.audits if a.event == event)
        learned = sum(not isinstance(e, DeletionRequest) for e in stream.events[:event])
        rows += service_rows(event, audit, outcome, learned)
        exact = float(outcome.exactness in {"bits", "law"})
        erased = float(outcome.weights_erased)
        rows.append(row(event, "run", happened.name, "exact", exact, 1))
        rows.append(row(event, "run", happened.name, "weights_erased", erased, 1))
    return rows
