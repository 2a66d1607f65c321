"""The score on training samples that are learned and not deleted."""

from __future__ import annotations

from lifelong.metrics.snapshots._base import Snapshot
from lifelong.results.table import Row
from strategies.metric import Better, Metric
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """`retained` has no options."""


METRICS: dict[str, Metric] = {}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "retain_": ("On training samples that are learned and not deleted: {}.", "higher"),
}
"""By prefixes to the name of the score."""


def rows(snapshot: Snapshot, config: Config) -> list[Row]:
    """Return the mean score on the live samples of the probe."""
    live = snapshot.plan.live(snapshot.event)
    value = float(snapshot.outputs.scores[live].mean()) if len(live) else None
    nothing = "no training sample of the probe is live"
    return [snapshot.row("stream", f"retain_{snapshot.measure}", value, len(live), nothing)]
