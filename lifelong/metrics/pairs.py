"""One request measured in detail on the run and a reference together: what neither of them tells alone."""

from __future__ import annotations

import numpy as np

from lifelong.evaluation.distributions import mean_over
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.formulas.distance import activation_distance
from lifelong.formulas.membership import membership_auc
from lifelong.formulas.quality import agreement, average_gap, tow_factors, tow_mia
from lifelong.metrics.detailed import NO_CLASS, NO_SIDES, NO_TEST, Detailed, is_private
from lifelong.results.table import Row, row
from strategies.metric import Metric
from streams.positions import positions_in

METRICS: dict[str, Metric] = {
    "calibrated_loss_auc": Metric(
        "How well the run's loss, minus the reference's loss on the same sample, tells the forget set from unseen "
        "samples of its classes; above 0.5 it is still known, below it is pushed away.",
        "AUC",
        "neither",
        0.5,
    ),
    "calibrated_confidence_auc": Metric(
        "As calibrated_loss_auc, by the confidence in the label.", "AUC", "neither", 0.5
    ),
    "calibrated_entropy_auc": Metric(
        "As calibrated_loss_auc, by the entropy of the prediction.", "AUC", "neither", 0.5
    ),
    "streisand": Metric(
        "Absolute difference of membership_auc to the reference's: the forget set stands out more, or less, than in a "
        "model that never saw it.",
        "AUC",
        "lower",
        0.0,
    ),
    "average_gap": Metric(
        "Mean of the absolute differences to the reference in UA (1 - accuracy on the forget set), RA (on retained "
        "training data), TA (on test data that counts) and MIA (mia_efficacy).",
        "share",
        "lower",
        0.0,
    ),
    "tow": Metric(
        "Tug of war: product over forget set, retained data and test data of 1 - absolute difference in accuracy to "
        "the reference.",
        "0 to 1",
        "higher",
        1.0,
    ),
    "tow_mia": Metric(
        "Tug of war with the difference in mia_efficacy in place of that on the forget set.", "0 to 1", "higher", 1.0
    ),
    "tow_forget": Metric("Factor of the tug of war on the forget set.", "0 to 1", "higher", 1.0),
    "tow_retain": Metric("Factor of the tug of war on retained training data.", "0 to 1", "higher", 1.0),
    "tow_test": Metric("Factor of the tug of war on test data that counts.", "0 to 1", "higher", 1.0),
    "activation_distance": Metric(
        "Mean L1 distance between the predictions of run and reference on the forget set.", "0 to 2", "lower", 0.0
    ),
    "agreement": Metric(
        "Share of the forget set for which run and reference predict the same class (completeness).",
        "share",
        "higher",
        1.0,
    ),
}


def pair_rows(kind: str, request: RequestPlan, run: Detailed, reference: Detailed, plan: EvaluationPlan) -> list[Row]:
    """Return what only run and reference together tell about one request."""
    event, name, n = run.event, request.name, len(request.forget)
    rows = []
    if is_private(request):
        run_quality, reference_quality = run.quality(request), reference.quality(request)
        values: list[float | None] = [None] * 6
        if run_quality is not None and reference_quality is not None:
            factors = tow_factors(run_quality, reference_quality)
            values = [
                average_gap(run_quality, reference_quality),
                float(np.prod(factors)),
                tow_mia(run_quality, reference_quality),
                *factors,
            ]
        names = ("average_gap", "tow", "tow_mia", "tow_forget", "tow_retain", "tow_test")
        why = NO_CLASS if run.outputs.details.certainty is None else NO_SIDES
        rows += [row(event, kind, name, metric, value, n, why) for metric, value in zip(names, values, strict=True)]
        rows += _calibrated(event, kind, request, run.outputs, reference.outputs, plan)
    p, q = run.outputs.details.distributions, reference.outputs.details.distributions
    at = positions_in(run.detailed, request.forget)
    distance = None if p is None or q is None else mean_over(activation_distance, p, q, at)
    same = None if p is None or q is None else mean_over(agreement, p, q, at)
    rows.append(row(event, kind, name, "activation_distance", distance, n, NO_CLASS))
    rows.append(row(event, kind, name, "agreement", same, n, NO_CLASS))
    return rows


def _calibrated(
    event: int, kind: str, request: RequestPlan, run: Outputs, reference: Outputs, plan: EvaluationPlan
) -> list[Row]:
    """Return attacks on how far the run moves every sample from where the reference has it; 0.5 if it never does.

    What is hard or easy for every model cancels (difficulty calibration, Watson et al. 2022).
    """
    name, classes, forget, non_members = request.name, plan.classes, request.forget, request.non_members
    moves: dict[str, np.ndarray | None] = {"loss": _moved(run.losses, reference.losses)}
    sure, reference_sure = run.details.certainty, reference.details.certainty
    if sure is not None and reference_sure is not None:
        moves["confidence"] = np.exp(-reference.losses) - np.exp(-run.losses)
        moves["entropy"] = _moved(sure.entropies, reference_sure.entropies)
    else:
        moves |= {"confidence": None, "entropy": None}
    rows, aucs = [], []
    for key, v in moves.items():
        auc = None if v is None else membership_auc(v[forget], classes[forget], v[non_members], classes[non_members])
        why = NO_CLASS if v is None else NO_TEST
        rows.append(row(event, kind, name, f"calibrated_{key}_auc", auc, len(forget), why))
    for outputs in (run, reference):
        v = outputs.losses
        aucs.append(membership_auc(v[forget], classes[forget], v[non_members], classes[non_members]))
    apart = None if aucs[0] is None or aucs[1] is None else abs(aucs[0] - aucs[1])
    rows.append(row(event, kind, name, "streisand", apart, len(forget), NO_TEST))
    return rows


def _moved(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the difference; 0 where both are infinite (an output that neither model may use)."""
    with np.errstate(invalid="ignore"):
        return np.where(values == reference, 0.0, values - reference)
