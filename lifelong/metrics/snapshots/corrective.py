"""Corrective unlearning: whether the damage is gone, also where nobody named the data that does it."""

from __future__ import annotations

import math

from lifelong.metrics.snapshots._base import Snapshot
from lifelong.results.table import Row, row
from strategies.metric import Better, Metric
from streams.config import Config as BaseConfig

METRICS: dict[str, Metric] = {
    "attack_success": Metric(
        "Share of test data on which the manipulation succeeds: triggered inputs of other classes that are taken for "
        "the target, or samples of two confused classes that are taken for each other.",
        "share",
        "lower",
    ),
    "unnamed_fit": Metric(
        "Share of the manipulated samples that are learned and were not named for which the model predicts the label "
        "they were given: below 1, the damage is leaving where nobody pointed at it.",
        "share",
        "neither",
    ),
    "recovery": Metric(
        "Accuracy on affected test data, from 0 (as in the life without requests) to 1 (as without any bad data).",
        "share",
        "higher",
        1.0,
    ),
}

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "corrected_": ("On test data where manipulated data does its damage, with true labels: {}.", "higher"),
    "unaffected_": ("On test data where manipulated data does no damage: {}.", "higher"),
}
"""The same of the score, by prefixes to its name."""


class Config(BaseConfig):
    """`corrective` has no options."""


def rows(snapshot: Snapshot, config: Config) -> list[Row]:
    """Return what the model does where the data was manipulated; nothing if it was not.

    Test rows count once their class has been learned. Not named are the manipulated samples that the model has
    learned and nobody has asked to correct.
    """
    plan, event, scores = snapshot.plan, snapshot.event, snapshot.outputs.scores
    damage = plan.damage
    if damage is None:
        return []
    classes_held = plan.classes_held[event]
    unnamed = damage.samples[damage.live[event]]
    parts = {
        f"corrected_{snapshot.measure}": (damage.affected, "no affected class is held"),
        f"unaffected_{snapshot.measure}": (damage.unaffected, "no unaffected class is held"),
        "attack_success": (damage.attack, "the class that the damage aims at is not held"),
    }
    result = []
    for metric, (positions, why) in parts.items():
        counting = positions[classes_held[plan.classes[positions]]]
        value = float(scores[counting].mean()) if len(counting) else None
        result.append(snapshot.row("stream", metric, value, len(counting), why))
    fitted = float(scores[unnamed].mean()) if len(unnamed) else None
    nothing = "no manipulated sample is learned and not named"
    return [*result, snapshot.row("stream", "unnamed_fit", fitted, len(unnamed), nothing)]


def recovery(run: float, original: float, clean: float, n: int) -> float | None:
    """Return how much of the damage was undone: 0 as before any request, 1 as if the data had never been bad.

    Args:
        run, original, clean: accuracy on affected test data of the run, of the life without requests, and of the one
            without all bad data.
        n: samples it was measured on.

    Returns:
        None where the damage is below three standard errors: there is nothing to recover.

    >>> recovery(0.6, 0.1, 0.9, 100), recovery(0.6, 0.8, 0.9, 100)
    (0.625, None)
    """
    error = math.sqrt((original * (1 - original) + clean * (1 - clean)) / max(n, 1))
    damage = clean - original
    return None if damage <= 3 * error else (run - original) / damage


def recovery_rows(rows: list[Row], measure: str) -> list[Row]:
    """Return the recovery wherever both a clean and an original reference stand; `rows` are against references."""
    metric = f"corrected_{measure}"
    scores = {(r.model, r.event, r.metric): r for r in rows if r.subject == "stream" and r.metric.endswith(metric)}
    result = []
    for (model, event, name), clean in scores.items():
        original, gap = scores.get(("original", event, metric)), scores.get(("clean", event, f"gap_{metric}"))
        if model != "clean" or name != metric or original is None or gap is None:
            continue
        value = None
        if clean.value is not None and original.value is not None and gap.value is not None:
            value = recovery(clean.value + gap.value, original.value, clean.value, clean.n)
        why = "the damage is below three standard errors"
        result.append(row(event, "clean", "stream", "recovery", value, clean.n, why))
    return result
