"""What is left of a request's answers in text, and what is kept of the others': rows from records of single rows.

Records are computed once after an event (`lifelong.answers`); all else is arithmetic on them.
"""

from __future__ import annotations

import numpy as np

from lifelong.evaluation import Audit, EvaluationPlan, Outputs
from lifelong.metrics.language import harmonic_mean, priv_leak
from lifelong.metrics.membership import membership_auc
from lifelong.table import Row, row

OF_REQUESTS = ("probability", "truth_ratio", "rouge_recall", "exact_memorisation", "extraction_strength")
"""Records that are averaged over the forget set of a request."""
ATTACKS = ("loss", "min_k", "min_k_plus_plus")
"""Records whose lowness tells members from strangers."""


def attack_auc(attack: str, forget: np.ndarray, outputs: Outputs) -> float | None:
    """Return the AUC of "lower means member" on the forget set against strangers; None without strangers."""
    assert outputs.records is not None
    strangers = outputs.records.get(f"strangers_{attack}")
    if strangers is None or not len(strangers):
        return None
    members = outputs.records[attack][forget]
    return membership_auc(members, np.zeros(len(members), dtype=int), strangers, np.zeros(len(strangers), dtype=int))


def request_rows(event: int, model: str, audit: Audit, detailed: np.ndarray, outputs: Outputs) -> list[Row]:
    """Return what one request's answers are like under `model`; nothing where no records are kept."""
    if outputs.records is None:
        return []
    forget, name = np.searchsorted(detailed, audit.forget), audit.request.name
    rows = []
    for record in OF_REQUESTS:
        values = outputs.records.get(record)
        if values is not None:
            own = values[forget]
            own = np.minimum(own, 1 / own) if record == "truth_ratio" else own
            rows.append(row(event, model, name, record, float(own.mean()), len(own)))
    for attack in ATTACKS:
        auc = attack_auc(attack, forget, outputs)
        if auc is not None:
            rows.append(row(event, model, name, f"{attack}_auc", auc, len(forget)))
    return rows


def utility_rows(event: int, model: str, plan: EvaluationPlan, detailed: np.ndarray, outputs: Outputs) -> list[Row]:
    """Return the harmonic mean of probability, ROUGE recall and 1 - truth ratio on live retained rows (TOFU's utility).

    Facts of the user ``world`` are a part of their own, as in TOFU; it has no neighbours here, hence up to six numbers.
    """
    if outputs.records is None or "truth_ratio" not in outputs.records:
        return []
    live = plan.kept[plan.probe_live[event][np.searchsorted(plan.probe, plan.kept)]]
    parts = [part for part in (live[~plan.world[live]], live[plan.world[live]]) if len(part)]
    numbers = []
    for part in parts:
        at = np.searchsorted(detailed, part)
        truth = np.maximum(0, 1 - outputs.records["truth_ratio"][at])
        numbers += [float(outputs.records[r][at].mean()) for r in ("probability", "rouge_recall")] + [
            float(truth.mean())
        ]
    value = harmonic_mean(numbers) if numbers else None
    return [row(event, model, "stream", "model_utility", value, len(live), "no retained row is live")]


def gap_rows(event: int, kind: str, audit: Audit, detailed: np.ndarray, run: Outputs, reference: Outputs) -> list[Row]:
    """Return the run against a reference on one request: differences, forget quality and PrivLeak."""
    theirs = request_rows(event, kind, audit, detailed, reference)
    if not theirs or run.records is None or reference.records is None:
        return []
    ours = {r.metric: r.value for r in request_rows(event, "run", audit, detailed, run)}
    rows = list(theirs)
    for r in theirs:
        own = ours[r.metric]
        gap = None if own is None or r.value is None else own - r.value
        rows.append(row(event, kind, r.subject, f"gap_{r.metric}", gap, r.n, r.reason or ""))
    name, n = audit.request.name, len(audit.forget)
    if "truth_ratio" in run.records:
        from scipy.stats import ks_2samp

        at = np.searchsorted(detailed, audit.forget)
        test = ks_2samp(run.records["truth_ratio"][at], reference.records["truth_ratio"][at])
        rows.append(row(event, kind, name, "ks_distance", float(test.statistic), n))
        rows.append(row(event, kind, name, "forget_quality", float(test.pvalue), n))
    own, other = ours.get("min_k_auc"), next((r.value for r in theirs if r.metric == "min_k_auc"), None)
    if own is not None and other is not None:
        nothing = "the reference tells every member"
        rows.append(row(event, kind, name, "priv_leak", priv_leak(own, other), n, nothing))
    return rows
