"""What is left of a request's answers in text, and what is kept of the others': rows from records of single rows.

Records are computed once after an event (`lifelong.evaluation.generation`); all else is arithmetic on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lifelong.evaluation.generation import ATTACKS
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import Audit, EvaluationPlan
from lifelong.formulas.language import harmonic_mean, priv_leak
from lifelong.formulas.membership import membership_auc
from lifelong.results.table import Row, row

OF_REQUESTS = ("probability", "truth_ratio", "truth_prob", "rouge_recall", "exact_memorisation", "extraction_strength")
"""Records that are averaged over the forget set of a request."""
UTILITY = ("probability", "rouge_recall", "truth")
"""What utility is made of, on retained rows and on facts about the world."""
NO_WRONG = "no row has wrong answers"
"""Why a truth ratio is undefined."""
FALSE_POSITIVES = 0.05
"""At which the attacks' true positives are counted; held-out people are too few for a share of 1 %."""


def sides_of(
    attack: str, forget: np.ndarray, tests: np.ndarray, outputs: Outputs
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a record of the forget set and of held-out rows; None where there are none.

    Args:
        attack: which.
        forget, tests: positions among the detailed ones; the second stand in where the source holds no rows out.
        outputs: with records.
    """
    assert outputs.records is not None
    records = outputs.records[attack]
    non_members = outputs.records.get(f"holdout_{attack}", records[tests])
    return (records[forget], non_members) if len(non_members) and len(forget) else None


def attack_auc(members: np.ndarray, non_members: np.ndarray) -> float | None:
    """Return the AUC of "lower means member"."""
    return membership_auc(
        members, np.zeros(len(members), dtype=int), non_members, np.zeros(len(non_members), dtype=int)
    )


def true_positives(members: np.ndarray, non_members: np.ndarray, share: float = FALSE_POSITIVES) -> float:
    """Return the share of members that lie below all non-members but a `share` of them.

    >>> true_positives(np.array([0.1, 0.2, 0.9]), np.linspace(0.5, 1, 100), 0.05)
    0.6666666666666666
    """
    return float(np.mean(members < np.sort(non_members)[int(share * len(non_members))]))


def request_rows(event: int, model: str, audit: Audit, detailed: np.ndarray, outputs: Outputs) -> list[Row]:
    """Return what one request's answers are like under `model`; nothing where no records are kept."""
    if outputs.records is None:
        return []
    forget, name = np.searchsorted(detailed, audit.forget), audit.request.name
    rows = []
    for record in OF_REQUESTS:
        values = outputs.records.get(record)
        if values is not None:
            own = _there(values[forget])
            own = np.minimum(own, 1 / own) if record == "truth_ratio" else own
            rows.append(row(event, model, name, record, *_mean(own), NO_WRONG))
    tests = _unseen_tests(detailed, [audit], outputs)
    for attack in ATTACKS:
        sides = sides_of(attack, forget, tests, outputs)
        if sides is not None:
            rows.append(row(event, model, name, f"{attack}_auc", attack_auc(*sides), len(forget)))
            rows.append(row(event, model, name, f"{attack}_tpr", true_positives(*sides), len(forget)))
    return rows


def utility_rows(event: int, model: str, plan: EvaluationPlan, detailed: np.ndarray, outputs: Outputs) -> list[Row]:
    """Return the harmonic mean of probability, ROUGE recall and 1 - truth ratio on live retained rows (TOFU's utility).

    Facts of the user ``world`` are a part of their own, as in TOFU; it has no neighbours here, hence up to six numbers.
    """
    if outputs.records is None or "truth_ratio" not in outputs.records:
        return []
    live = plan.kept[plan.probe_live[event][np.searchsorted(plan.probe, plan.kept)]]
    rows, numbers = [], []
    for where, part in (("retained", live[~plan.world[live]]), ("world", live[plan.world[live]])):
        if not len(part):
            continue
        at = np.searchsorted(detailed, part)
        records = outputs.records | {"truth": np.maximum(0, 1 - outputs.records["truth_ratio"])}
        if where == "world":  # a choice between the right answer and the wrong ones, as TOFU has it
            records = records | {"probability": records["choice"]}
        means = [_mean(_there(records[r][at])) for r in UTILITY]
        rows += [row(event, model, "stream", f"{where}_{r}", *m, NO_WRONG) for r, m in zip(UTILITY, means, strict=True)]
        numbers += [value for value, _ in means]
    known = [value for value in numbers if value is not None]
    value = harmonic_mean(known) if known and len(known) == len(numbers) else None
    why = NO_WRONG if numbers else "no retained row is live"
    return [*rows, row(event, model, "stream", "model_utility", value, len(live), why)]


def _there(values: np.ndarray) -> np.ndarray:
    """Return the values of those rows that have one."""
    return values[~np.isnan(values)]


def _mean(values: np.ndarray) -> tuple[float | None, int]:
    """Return the mean, None of nothing, and how many values it rests on."""
    return (float(values.mean()) if len(values) else None), len(values)


def _unseen_tests(detailed: np.ndarray, due: Sequence[Audit], outputs: Outputs) -> np.ndarray:
    """Return which detailed positions are unseen text of the same classes; none where questions tell of facts."""
    unseen = None if outputs.records is None else outputs.records.get("unseen")
    if unseen is None:
        return np.array([], dtype=np.int64)
    return np.flatnonzero(np.isin(detailed, np.concatenate([a.non_members for a in due])) & (unseen > 0))


def audit_rows(event: int, model: str, due: Sequence[Audit], outputs: Outputs) -> list[Row]:
    """Return what the audits of text found, of every request that was due and of the stream."""
    rows = []
    for key, values in outputs.details.items():
        kind, _, metric = key.partition("_")
        why = next((why for prefix, why in _WHY.items() if metric.startswith(prefix)), "")
        if kind == "audit":
            for audit, value in zip(due, values.tolist(), strict=True):
                rows.append(row(event, model, audit.request.name, metric, value, len(audit.forget), why))
        elif kind == "stream":
            rows.append(row(event, model, "stream", metric, float(values[0]), 1, why))
    return rows


_WHY = {
    "know_mem": "the text has no questions, or they do not fit the model's context with the examples",
    "retain_know_mem": "there are no questions about what is kept, or they do not fit the context with the examples",
    "relearned": "there is no single model, or what is deleted is a single fact",
    "int": "there is no single model with known blocks",
    "context": "there is no such statement, or the model's context is too short for it",
    "reintroduction": "there is no such statement, or the model's context is too short for it",
    "probe": "no held-out wording asks for it",
}


def joint_auc(detailed: np.ndarray, due: Sequence[Audit], outputs: Outputs) -> tuple[float | None, int]:
    """Return the AUC of Min-K on all forget sets together, and their size."""
    forget = np.unique(np.concatenate([a.forget for a in due]))
    at = np.searchsorted(detailed, forget)
    sides = None if outputs.records is None else sides_of("min_k", at, _unseen_tests(detailed, due, outputs), outputs)
    return (None if sides is None else attack_auc(*sides)), len(forget)


def joint_rows(
    event: int, kind: str, due: Sequence[Audit], detailed: np.ndarray, run: Outputs, reference: Outputs
) -> list[Row]:
    """Return MUSE's PrivLeak on all that was deleted until now, which the reference has never seen."""
    if run.records is None or reference.records is None or not due:
        return []
    ours, n = joint_auc(detailed, due, run)
    theirs, _ = joint_auc(detailed, due, reference)
    if ours is None or theirs is None:
        return []
    nothing = "the reference tells every member"
    return [row(event, kind, "requests", "joint_priv_leak", priv_leak(ours, theirs), n, nothing)]


def gaps_of(kind: str, run: list[Row], reference: list[Row]) -> list[Row]:
    """Return the run minus the reference, for rows that both have."""
    ours = {(r.subject, r.metric): r for r in run}
    rows = []
    for r in reference:
        own = ours.get((r.subject, r.metric))
        if own is not None:
            gap = None if own.value is None or r.value is None else own.value - r.value
            rows.append(row(r.event, kind, r.subject, f"gap_{r.metric}", gap, r.n, own.reason or r.reason or ""))
    return rows


def gap_rows(event: int, kind: str, audit: Audit, detailed: np.ndarray, run: Outputs, reference: Outputs) -> list[Row]:
    """Return the run against a reference on one request: differences, forget quality and PrivLeak."""
    theirs = request_rows(event, kind, audit, detailed, reference)
    if not theirs or run.records is None or reference.records is None:
        return []
    mine = request_rows(event, "run", audit, detailed, run)
    ours = {r.metric: r.value for r in mine}
    rows = [*theirs, *gaps_of(kind, mine, theirs)]
    name, n = audit.request.name, len(audit.forget)
    if "truth_ratio" in run.records:
        from scipy.stats import ks_2samp

        at = np.searchsorted(detailed, audit.forget)
        sides = [_there(o.records["truth_ratio"][at]) for o in (run, reference) if o.records is not None]
        test = ks_2samp(*sides) if len(sides[0]) else None
        for metric, value in (("ks_distance", test and test.statistic), ("forget_quality", test and test.pvalue)):
            rows.append(row(event, kind, name, metric, value, len(sides[0]), NO_WRONG))
    own, other = ours.get("min_k_auc"), next((r.value for r in theirs if r.metric == "min_k_auc"), None)
    if own is not None and other is not None:
        nothing = "the reference tells every member"
        rows.append(row(event, kind, name, "priv_leak", priv_leak(own, other), n, nothing))
    return rows
