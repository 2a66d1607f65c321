"""The score on training samples that are learned and not deleted, and whether predictions there say anything at all."""

from __future__ import annotations

import numpy as np

from lifelong.formulas.informedness import informedness
from lifelong.metrics.snapshots._base import Snapshot
from lifelong.results.table import Row
from strategies.metric import Better, Metric
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """`retained` has no options."""


METRICS: dict[str, Metric] = {
    "informedness": Metric(
        "Mean over classes of the accuracy on training samples that are learned and not deleted, rescaled so that one "
        "constant prediction gets 0 (chance) and a perfect one 1; with tasks that the model is told, mean over tasks.",
        "at most 1",
        "higher",
        1.0,
    ),
    "soft_informedness": Metric(
        "Informedness by the probability of the label: at most 0 where outputs are constant, whatever they are.",
        "at most 1",
        "higher",
        1.0,
    ),
}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "retain_": ("On training samples that are learned and not deleted: {}.", "higher"),
}
"""By prefixes to the name of the score."""


def rows(snapshot: Snapshot, config: Config) -> list[Row]:
    """Return the mean score on the live samples of the probe; of classification also how informed predictions are."""
    live = snapshot.plan.live(snapshot.event)
    value = float(snapshot.outputs.scores[live].mean()) if len(live) else None
    nothing = "no training sample of the probe is live"
    retained = snapshot.row("stream", f"retain_{snapshot.measure}", value, len(live), nothing)
    if snapshot.measure != "accuracy":
        return [retained]
    classes, tasks = snapshot.plan.classes[live], snapshot.stream.task_of
    groups = np.zeros(len(live)) if tasks is None else tasks[snapshot.plan.ids[live]]
    hard, soft = snapshot.outputs.scores[live], np.exp(-snapshot.outputs.losses[live].astype(np.float64))
    few = "fewer than two classes are live"
    return [
        retained,
        snapshot.row("stream", "informedness", informedness(hard, classes, groups), len(live), few),
        snapshot.row("stream", "soft_informedness", informedness(soft, classes, groups), len(live), few),
    ]
