"""What an event cost: work, data read, the size of what is kept; and what the strategy tells of itself."""

from __future__ import annotations

from lifelong.evaluation.plan import EvaluationPlan
from lifelong.metrics.requests import service_rows
from lifelong.metrics.selection import selection_rows
from lifelong.results.table import Row, row
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.step import Step
from streams.stream import Stream

METRICS: dict[str, Metric] = {
    "steps": Metric("Optimizer steps of the event.", "steps", "lower"),
    "forward": Metric("Samples passed forward through the network.", "samples", "lower"),
    "backward": Metric("Samples passed backward through the network.", "samples", "lower"),
    "samples_read": Metric("Distinct training samples that the strategy read.", "samples", "lower"),
    "state_bytes": Metric("Size of everything the strategy keeps, stored samples included.", "bytes", "lower"),
    "skipped": Metric("Whether nothing was left to learn, because all samples are deleted.", "0 or 1", "neither"),
}


def cost_rows(
    event: int, stream: Stream, plan: EvaluationPlan, step: Step, strategy: Strategy, learned: int
) -> list[Row]:
    """Return what an event cost (work, data read, the size of what is kept), and what the strategy tells of itself.

    Args:
        event: its index.
        stream, plan: to find the request.
        step: what happened.
        strategy: as the event left it.
        learned: learn events before it.
    """
    outcome, stored = step.outcome, len(strategy.stored_ids())
    values = {
        "steps": outcome.steps,
        "forward": outcome.forward,
        "backward": outcome.backward,
        "samples_read": step.samples_read,
        "state_bytes": strategy.state_bytes() + stored * stream.source.sample_bytes,
        "skipped": int(step.skipped),
    }
    rows = [row(event, "run", "event", name, float(value), 1) for name, value in values.items()]
    rows += [row(event, "run", "event", f"loss_{name}", value, 1) for name, value in sorted(outcome.losses.items())]
    rows += [row(event, "run", s, name, v, 1) for s, traits in outcome.traits.items() for name, v in traits.items()]
    if outcome.draw is not None:
        rows += selection_rows(event, outcome.draw, stream.source)
    if (request := plan.served_at(event)) is not None:
        rows += service_rows(event, request, outcome, learned)
    return rows
