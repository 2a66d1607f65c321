"""What a metric of one model at one moment is made from, and how those of a run are found."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.results.table import Row, row
from streams.config import Named, resolve
from streams.errors import ConfigError
from streams.registry import KINDS, entries
from streams.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One model after one event.

    Attributes:
        model: ``run``, or the reference that it is.
        event: index of the event.
        outputs: of the samples ``plan.ids``; details, records and audits only where something is due.
        plan: what the samples count for.
        stream: what is lived through.
        measure: name of the score.
    """

    model: str
    event: int
    outputs: Outputs
    plan: EvaluationPlan
    stream: Stream
    measure: str

    def row(self, subject: str, metric: str, value: float | None, n: int, reason: str = "") -> Row:
        """Return a row of results.

        Args:
            subject: what was measured: ``stream``, a unit, a request.
            metric: name.
            value: the number; None or NaN where it is undefined.
            n: samples (or units) that it rests on.
            reason: why it is undefined.
        """
        return row(self.event, self.model, subject, metric, value, n, reason)


SnapshotMetric = Callable[[Snapshot], list[Row]]


def built_in() -> tuple[SnapshotMetric, ...]:
    """Return the metrics that are always measured: those of this folder."""
    names = [name for name, entry in entries("metrics").items() if _is_built_in(entry.module)]
    return tuple(_metric(Named(name=name)) for name in names)


def all_metrics(added: Sequence[Named]) -> tuple[SnapshotMetric, ...]:
    """Return the metrics that are always measured, and those that a configuration adds.

    Raises:
        ConfigError: one that is added is not valid, or is measured anyway.
    """
    for named in added:
        entry = entries("metrics").get(named.name)
        if entry is not None and _is_built_in(entry.module):
            raise ConfigError(
                f"evaluation.metrics: {named.name!r} is measured in every run. Leave it out; the key is for metrics of "
                f"your own, as in ./my_metric.py."
            )
    return (*built_in(), *(_metric(named) for named in added))


def _is_built_in(module: str) -> bool:
    return module.startswith(KINDS["metrics"] + ".")


def _metric(named: Named) -> SnapshotMetric:
    module, options = resolve("metrics", named, f"evaluation.metrics.{named.name}")
    return functools.partial(module.rows, config=options)
