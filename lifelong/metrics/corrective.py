"""Corrective unlearning: whether the damage is gone, also where nobody named the data that does it."""

from __future__ import annotations

import math

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.results.table import Row, row


def corrective_rows(model: str, event: int, outputs: Outputs, plan: EvaluationPlan, measure: str) -> list[Row]:
    """Return what `model` does after `event` where the data was manipulated; nothing if it was not.

    Test rows count once their class has been learned. Not named are the manipulated samples that the model has
    learned and nobody has asked to correct.
    """
    damage = plan.damage
    if damage is None:
        return []
    held = plan.classes_held[event]
    unnamed = damage.samples[damage.live[event]]
    parts = {
        f"corrected_{measure}": (damage.affected, "no affected class is held"),
        f"unaffected_{measure}": (damage.unaffected, "no unaffected class is held"),
        "attack_success": (damage.attack, "the class that the damage aims at is not held"),
    }
    rows = []
    for metric, (positions, why) in parts.items():
        counting = positions[held[plan.classes[positions]]]
        value = float(outputs.scores[counting].mean()) if len(counting) else None
        rows.append(row(event, model, "stream", metric, value, len(counting), why))
    fitted = float(outputs.scores[unnamed].mean()) if len(unnamed) else None
    nothing = "no manipulated sample is learned and not named"
    return [*rows, row(event, model, "stream", "unnamed_fit", fitted, len(unnamed), nothing)]


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
    found = {(r.model, r.event, r.metric): r for r in rows if r.subject == "stream" and r.metric.endswith(metric)}
    result = []
    for (model, event, name), clean in found.items():
        original, gap = found.get(("original", event, metric)), found.get(("clean", event, f"gap_{metric}"))
        if model != "clean" or name != metric or original is None or gap is None:
            continue
        value = None
        if clean.value is not None and original.value is not None and gap.value is not None:
            value = recovery(clean.value + gap.value, original.value, clean.value, clean.n)
        why = "the damage is below three standard errors"
        result.append(row(event, "clean", "stream", "recovery", value, clean.n, why))
    return result
