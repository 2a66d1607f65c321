"""What is left of a request's answers in text, and what is kept of the others': rows from records of single rows.

Records are computed once after an event (`strategies.objectives._answers`); all else is arithmetic on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.formulas.language import harmonic_mean, priv_leak
from lifelong.formulas.membership import membership_auc
from lifelong.metrics import gaps
from lifelong.results.table import Row, row
from strategies.metric import Metric
from strategies.objectives._answers import ATTACKS
from streams.positions import positions_in
from streams.source import Source

OF_THE_WORLD = ("world", "authors")
"""Users whose facts are parts of utility of their own: chosen among wrong ones."""
UTILITY = ("probability", "rouge_recall", "truth")
"""What utility is made of, on retained rows and on facts about the world."""
NO_WRONG = "no row has wrong answers"
"""Why a truth ratio is undefined."""
_ALL_TOLD = "the reference tells every member"
FALSE_POSITIVES = 0.05
"""At which the attacks' true positives are counted."""
FEW, MANY = 0.01, 200
"""The same at 1 %, where there are so many non-members; of fewer it would hang on one or none of them."""


METRICS: dict[str, Metric] = {
    "truth_ratio": Metric(
        "Mean of min(R, 1/R), R = exp(loss of the right answer - mean loss of wrong ones), all in other words (TOFU): "
        "near 1 the right answer is not recognised.",
        "0 to 1",
        "reference",
    ),
    "loss_auc": Metric(
        "Membership attack by loss: forget set against non-members (held-out rows).", "AUC", "reference"
    ),
    "min_k_auc": Metric(
        "The same by the 40 % least likely tokens (Min-K): forget set against non-members (held-out rows).",
        "AUC",
        "reference",
    ),
    "min_k_plus_plus_auc": Metric(
        "The same by tokens in units of what their position expects (Min-K++).", "AUC", "reference"
    ),
    "zlib_auc": Metric("The same by the loss over the bytes that the answer packs into.", "AUC", "reference"),
    **{
        f"{attack}_tpr": Metric(
            f"Share of the forget set that {attack}_auc's attack tells at 5 % false positives.", "share", "reference"
        )
        for attack in ("loss", "zlib", "min_k", "min_k_plus_plus")
    },
    **{
        f"{attack}_tpr_1": Metric(
            f"Share of the forget set that {attack}_auc's attack tells at 1 % false positives, where 200 or more "
            "non-members are held out.",
            "share",
            "reference",
        )
        for attack in ("loss", "zlib", "min_k", "min_k_plus_plus")
    },
    "reference_auc": Metric(
        "Membership attack by the loss minus that of the reference: forget set against non-members (held-out rows). "
        "Above 0.5 the run knows the forget set better than a model of the same content that never saw it.",
        "AUC",
        "neither",
        0.5,
    ),
    "priv_leak": Metric(
        "MUSE's PrivLeak by Min-K: below 0 members still stand out, above 0 they stand out as unseen.",
        "percent",
        "zero",
        0.0,
    ),
    "ks_distance": Metric(
        "Kolmogorov-Smirnov distance between the truth ratios of run and reference on the forget set.",
        "0 to 1",
        "lower",
        0.0,
    ),
    "forget_quality": Metric(
        "TOFU's forget quality: p-value of that distance. It depends on n and does not see collapse.",
        "p-value",
        "higher",
        1.0,
    ),
    "model_utility": Metric(
        "Harmonic mean of probability, ROUGE recall and 1 - truth ratio on retained rows, and on facts about the world "
        "and real authors where there are any (TOFU's nine numbers).",
        "0 to 1",
        "higher",
        1.0,
    ),
    **{
        f"{where}_{what}": Metric(f"Part of model_utility: {meaning} {of}.", "0 to 1", "higher", 1.0)
        for where, of in (
            ("retained", "on retained rows"),
            ("world", "on facts about the world"),
            ("authors", "on facts about real authors"),
        )
        for what, meaning in (
            ("probability", "mean probability of the answer, over that of it and the wrong ones")
            if where in OF_THE_WORLD
            else ("probability", "mean probability of the answer"),
            ("rouge_recall", "ROUGE-L recall of greedy text"),
            ("truth", "mean of max(0, 1 - truth ratio)"),
        )
    },
    "joint_priv_leak": Metric(
        "PrivLeak on all that was deleted until now, together, against a reference that never saw any of it.",
        "percent",
        "zero",
        0.0,
    ),
}


def sides_of(
    attack: str, forget: np.ndarray, tests: np.ndarray, outputs: Outputs
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a record of the forget set and of held-out rows; None where there are none.

    Args:
        attack: which.
        forget, tests: positions among the detailed ones; the second stand in where the source holds no rows out.
        outputs: with records.
    """
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


def record_rows(
    event: int, model: str, request: RequestPlan, detailed: np.ndarray, outputs: Outputs, averaged: Mapping[str, str]
) -> list[Row]:
    """Return means over one request's forget set of records, whatever measured them.

    Args:
        event, model, request: for the rows.
        detailed: positions that have records.
        outputs: with records.
        averaged: names of records, and why there may be no mean.
    """
    if not outputs.records:
        return []
    forget = positions_in(detailed, request.forget)
    known = {name: _defined(outputs.records[name][forget]) for name in averaged if name in outputs.records}
    return [row(event, model, request.name, name, *_mean(known[name]), averaged[name]) for name in known]


def request_rows(event: int, model: str, request: RequestPlan, detailed: np.ndarray, outputs: Outputs) -> list[Row]:
    """Return what one request's answers are like under `model`; nothing where no answers were measured."""
    if "min_k" not in outputs.records:
        return []
    forget, name = positions_in(detailed, request.forget), request.name
    rows = []
    if "truth_ratio" in outputs.records:
        ratios = _defined(outputs.records["truth_ratio"][forget])
        rows.append(row(event, model, name, "truth_ratio", *_mean(np.minimum(ratios, 1 / ratios)), NO_WRONG))
    tests = _unseen_tests(detailed, [request], outputs)
    for attack in ATTACKS:
        sides = sides_of(attack, forget, tests, outputs)
        if sides is not None:
            rows.append(row(event, model, name, f"{attack}_auc", attack_auc(*sides), len(forget)))
            rows.append(row(event, model, name, f"{attack}_tpr", true_positives(*sides), len(forget)))
            if len(sides[1]) >= MANY:
                rows.append(row(event, model, name, f"{attack}_tpr_1", true_positives(*sides, FEW), len(forget)))
    return rows


def utility_rows(event: int, model: str, plan: EvaluationPlan, source: Source, outputs: Outputs) -> list[Row]:
    """Return the harmonic mean of probability, ROUGE recall and 1 - truth ratio on live retained rows (TOFU's utility).

    Facts of the users ``world`` and ``authors`` are parts of their own, as in TOFU: up to nine numbers.
    """
    if not {"truth_ratio", "rouge_recall"} <= outputs.records.keys():
        return []
    live, detailed = plan.live_retained(event), plan.detailed(event)
    users = np.array([name if name in OF_THE_WORLD else "retained" for name in source.user_names])
    whose = users[source.user_ids[plan.ids[live]]]
    rows, numbers = [], []
    for subset in ("retained", *OF_THE_WORLD):
        positions = live[whose == subset]
        if not len(positions):
            continue
        at = positions_in(detailed, positions)
        records = outputs.records | {"truth": np.maximum(0, 1 - outputs.records["truth_ratio"])}
        if subset in OF_THE_WORLD:  # a choice between the right answer and the wrong ones, as TOFU has it
            records = records | {"probability": records["choice"]}
        for record in UTILITY:
            value, n = _mean(_defined(records[record][at]))
            rows.append(row(event, model, "stream", f"{subset}_{record}", value, n, NO_WRONG))
            numbers.append(value)
    known = [value for value in numbers if value is not None]
    value = harmonic_mean(known) if known and len(known) == len(numbers) else None
    why = NO_WRONG if numbers else "no retained row is live"
    return [*rows, row(event, model, "stream", "model_utility", value, len(live), why)]


def _defined(values: np.ndarray) -> np.ndarray:
    """Return the values of those rows that have one."""
    return values[~np.isnan(values)]


def _mean(values: np.ndarray) -> tuple[float | None, int]:
    """Return the mean, None of nothing, and how many values it rests on."""
    return (float(values.mean()) if len(values) else None), len(values)


def _unseen_tests(detailed: np.ndarray, due: Sequence[RequestPlan], outputs: Outputs) -> np.ndarray:
    """Return which detailed positions are unseen text of the same classes; none where questions tell of facts."""
    unseen = outputs.records.get("unseen")
    if unseen is None:
        return np.array([], dtype=np.int64)
    return np.flatnonzero(np.isin(detailed, np.concatenate([a.non_members for a in due])) & (unseen > 0))


def joint_auc(detailed: np.ndarray, due: Sequence[RequestPlan], outputs: Outputs) -> tuple[float | None, int]:
    """Return the AUC of Min-K on all forget sets together, and their size."""
    forget = np.unique(np.concatenate([r.forget for r in due]))
    at = positions_in(detailed, forget)
    sides = sides_of("min_k", at, _unseen_tests(detailed, due, outputs), outputs) if outputs.records else None
    return (None if sides is None else attack_auc(*sides)), len(forget)


def joint_rows(
    event: int, kind: str, due: Sequence[RequestPlan], detailed: np.ndarray, run: Outputs, reference: Outputs
) -> list[Row]:
    """Return MUSE's PrivLeak on all that was deleted until now, which the reference has never seen."""
    if "min_k" not in run.records or "min_k" not in reference.records or not due:
        return []
    run_auc, n = joint_auc(detailed, due, run)
    reference_auc, _ = joint_auc(detailed, due, reference)
    if run_auc is None or reference_auc is None:
        return []
    return [row(event, kind, "requests", "joint_priv_leak", priv_leak(run_auc, reference_auc), n, _ALL_TOLD)]


def gap_rows(
    event: int,
    kind: str,
    request: RequestPlan,
    detailed: np.ndarray,
    run: Outputs,
    reference: Outputs,
    averaged: Mapping[str, str],
) -> list[Row]:
    """Return the run against a reference on one request: differences, forget quality and PrivLeak."""
    run_rows, reference_rows = (
        record_rows(event, model, request, detailed, outputs, averaged)
        + request_rows(event, model, request, detailed, outputs)
        for model, outputs in (("run", run), (kind, reference))
    )
    rows = [*reference_rows, *gaps.gap_rows(kind, run_rows, reference_rows)]
    name, n = request.name, len(request.forget)
    if "truth_ratio" in run.records and "truth_ratio" in reference.records:
        from scipy.stats import ks_2samp

        at = positions_in(detailed, request.forget)
        sides = [_defined(outputs.records["truth_ratio"][at]) for outputs in (run, reference)]
        test = ks_2samp(*sides) if len(sides[0]) else None
        for metric, value in (("ks_distance", test and test.statistic), ("forget_quality", test and test.pvalue)):
            rows.append(row(event, kind, name, metric, value, len(sides[0]), NO_WRONG))
    aucs = [next((r.value for r in side if r.metric == "min_k_auc"), None) for side in (run_rows, reference_rows)]
    forget, tests = positions_in(detailed, request.forget), _unseen_tests(detailed, [request], run)
    beside = [sides_of("loss", forget, tests, outputs) for outputs in (run, reference) if "loss" in outputs.records]
    if len(beside) == 2 and beside[0] is not None and beside[1] is not None:
        members, others = (ours - theirs for ours, theirs in zip(*beside, strict=True))
        rows.append(row(event, kind, name, "reference_auc", attack_auc(members, others), n))
    if aucs[0] is not None and aucs[1] is not None:
        rows.append(row(event, kind, name, "priv_leak", priv_leak(aucs[0], aucs[1]), n, _ALL_TOLD))
    return rows
