"""One request measured in detail, when it is served and at the end: attacks, and the run beside a reference."""

from __future__ import annotations

import numpy as np

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import Audit, EvaluationPlan
from lifelong.evaluation.relearning import SLACK, anamnesis, relearn_time
from lifelong.formulas.calibration import expected_calibration_error
from lifelong.formulas.distance import activation_distance, zero_retrain_forgetting
from lifelong.formulas.membership import (
    MOST_PER_SIDE,
    cross_validated_accuracy,
    entropy_member_rate,
    membership_auc,
    membership_ks,
    mia_efficacy,
)
from lifelong.formulas.quality import Quality, agreement, average_gap, tow_factors
from lifelong.results.table import Row, row
from streams.randomness import Key

_NO_CLASS = "the objective predicts no class"
_NO_TEST = "a class of the forget set has no test samples"
_NO_SIDES = "there is no live training sample of the probe, or no test sample that counts"


def is_private(audit: Audit) -> bool:
    """Return whether retraining without the named data is the target: not so where bad data is to be corrected.

    What a correction does not name is bad as well, and still there: it is a member of the same population, and a
    model like the retrained one would go on being wrong.
    """
    return audit.request.reason != "correct"


class Detailed:
    """Measures one model at one event in detail. Attacks that are fitted on the model are fitted once."""

    def __init__(self, model: str, event: int, outputs: Outputs, plan: EvaluationPlan, random: np.ndarray) -> None:
        """Take the outputs of `model` after `event`.

        Args:
            model: name for its rows.
            event: one at which some audit is due.
            outputs: with details.
            plan: what they were measured on.
            random: distributions of an untrained network at the event's detailed positions.
        """
        self.outputs, self.event, self._model, self._plan, self._random = outputs, event, model, plan, random
        self.detailed = plan.detailed(event)
        self.due = list(plan.due(event))
        self.live = plan.probe[plan.probe_live[event]]
        self.tests = counting_tests(plan, event)

    def rows(self, audit: Audit, threshold: float, limit: int) -> list[Row]:
        """Return what the model says of one request's data.

        Args:
            audit: of the request.
            threshold: loss at which its data counts as learned again.
            limit: steps of relearning.
        """
        name, n = audit.request.name, len(audit.forget)
        found: list[Row] = []
        if is_private(audit):
            found += self._attacks(audit)
        zrf = None
        if (p := self.outputs.probabilities) is not None:
            at = np.searchsorted(self.detailed, audit.forget)
            zrf = zero_retrain_forgetting(p[at], self._random[at])
        found.append(row(self.event, self._model, name, "zrf", zrf, n, _NO_CLASS))
        found.append(self._calibration(name, "forget_ece", audit.forget, ""))
        found.append(
            self._calibration(name, "forget_test_ece", audit.forget_test, "no test data belongs to the request")
        )
        if "relearning" in self.outputs.details:
            time = relearn_time(self.outputs.details["relearning"][self.due.index(audit)], threshold)
            late = f"it takes more than {limit} steps"
            found.append(row(self.event, self._model, name, "relearn_steps", time, n, late))
        if "readout" in self.outputs.details:
            value = float(self.outputs.details["readout"][self.due.index(audit)])
            why = "no test data, no retained data, or no single feature space"
            found.append(row(self.event, self._model, name, "readout_accuracy", value, len(audit.forget_test), why))
        return found

    def calibration(self) -> list[Row]:
        """Return how well calibrated the model is on what it retains."""
        return [
            self._calibration("stream", "retain_ece", self.live, "no training sample of the probe is live"),
            self._calibration("stream", "sample_ece", self.tests, "no unit with test samples is held"),
        ]

    def _calibration(self, subject: str, metric: str, positions: np.ndarray, nothing: str) -> Row:
        confidences, error = self.outputs.details.get("confidences"), None
        if confidences is not None and len(positions):
            error = expected_calibration_error(confidences[positions], self.outputs.scores[positions])
        why = nothing if confidences is not None else _NO_CLASS
        return row(self.event, self._model, subject, metric, error, len(positions), why)

    def quality(self, audit: Audit) -> Quality | None:
        """Return UA, RA, TA and MIA, or None where one of them is undefined."""
        efficacy = self._efficacy(audit)
        if efficacy is None:
            return None
        scores = self.outputs.scores
        forget, retain, test = (float(scores[where].mean()) for where in (audit.forget, self.live, self.tests))
        return Quality(forget, retain, test, efficacy)

    def _attacks(self, audit: Audit) -> list[Row]:
        """Return the population attacks; see `lifelong.formulas.membership`."""
        model, event, name, n = self._model, self.event, audit.request.name, len(audit.forget)
        details, classes = self.outputs.details, self._plan.classes
        if "margins" not in details:
            names = ["mia_efficacy", "entropy_member_rate", "attack_accuracy"]
            names += ["entropy_auc", "modified_entropy_auc", "membership_ks"]
            return [row(event, model, name, metric, None, n, _NO_CLASS) for metric in names]
        forget, others = audit.forget, audit.non_members
        rate = None
        if (sides := self._sides()) is not None:
            entropies = details["entropies"]
            rate = entropy_member_rate(entropies[sides[0]], entropies[sides[1]], entropies[forget])
        accuracy = None
        if (unseen := matched(audit, self._plan)) is not None:
            losses = self.outputs.losses
            splits = (Key(self._plan.seed) / "splits" / event).number() % 2**32
            accuracy = cross_validated_accuracy(losses[unseen[0]], losses[unseen[1]], splits)
        values: list[tuple[str, float | None, str]] = [
            ("mia_efficacy", self._efficacy(audit), _NO_SIDES),
            ("entropy_member_rate", rate, _NO_SIDES),
            ("attack_accuracy", accuracy, "it takes ten samples to forget and as many unseen ones of their classes"),
        ]
        for metric, key in (("entropy_auc", "entropies"), ("modified_entropy_auc", "modified_entropies")):
            v = details[key]
            values.append((metric, membership_auc(v[forget], classes[forget], v[others], classes[others]), _NO_TEST))
        v = details["margins"]
        values.append(
            ("membership_ks", membership_ks(v[forget], classes[forget], v[others], classes[others]), _NO_TEST)
        )
        return [row(event, model, name, metric, value, n, why) for metric, value, why in values]

    def _efficacy(self, audit: Audit) -> float | None:
        sides = self._sides()
        if "margins" not in self.outputs.details or sides is None:
            return None
        confidences = np.exp(-self.outputs.losses.astype(np.float64))
        return mia_efficacy(confidences[sides[0]], confidences[sides[1]], confidences[audit.forget])

    def _sides(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return as many live training samples as test samples, drawn by name: the same ones for every model."""
        n = min(len(self.live), len(self.tests), MOST_PER_SIDE)
        if not n:
            return None
        ids, key = self._plan.ids, Key(self._plan.seed) / "attack"
        return self.live[key.order(ids[self.live])[:n]], self.tests[key.order(ids[self.tests])[:n]]


def counting_tests(plan: EvaluationPlan, event: int) -> np.ndarray:
    """Return the test samples that count after `event`: of units that are held, neither class nor task deleted."""
    positions = plan.position_of[plan.since[event][plan.unit_of] >= 0]
    return np.unique(positions[plan.alive[event][positions]])


def matched(audit: Audit, plan: EvaluationPlan) -> tuple[np.ndarray, np.ndarray] | None:
    """Return as many samples of the forget set as unseen ones of its classes, drawn by name; None if there are none."""
    key, ids = Key(plan.seed) / "matched", plan.ids
    pairs = []
    for c in np.unique(plan.classes[audit.forget]):
        sides = [np.asarray(part[plan.classes[part] == c]) for part in (audit.forget, audit.non_members)]
        count = min(len(side) for side in sides)
        pairs.append([side[key.order(ids[side])[:count]] for side in sides])
    forget, unseen = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return (forget, unseen) if len(forget) else None


def pair_rows(
    kind: str, audit: Audit, run: Detailed, reference: Detailed, plan: EvaluationPlan, threshold: float, limit: int
) -> list[Row]:
    """Return what only run and reference together tell about one request; the arguments are those of `Detailed`."""
    event, name, n = run.event, audit.request.name, len(audit.forget)
    rows = []
    if is_private(audit):
        ours, theirs = run.quality(audit), reference.quality(audit)
        values: list[float | None] = [None] * 6
        if ours is not None and theirs is not None:
            factors = tow_factors(ours, theirs)
            confidence = 1 - abs(ours.mia - theirs.mia)
            tow_mia = confidence * factors[1] * factors[2]
            values = [average_gap(ours, theirs), float(np.prod(factors)), tow_mia, *factors]
        names = ("average_gap", "tow", "tow_mia", "tow_forget", "tow_retain", "tow_test")
        why = _NO_SIDES if "margins" in run.outputs.details else _NO_CLASS
        rows += [row(event, kind, name, metric, value, n, why) for metric, value in zip(names, values, strict=True)]
        rows += _calibrated(event, kind, audit, run.outputs, reference.outputs, plan)
    p, q = run.outputs.probabilities, reference.outputs.probabilities
    at = np.searchsorted(run.detailed, audit.forget)
    distance = None if p is None or q is None else activation_distance(p[at], q[at])
    same = None if p is None or q is None else agreement(p[at], q[at])
    rows.append(row(event, kind, name, "activation_distance", distance, n, _NO_CLASS))
    rows.append(row(event, kind, name, "agreement", same, n, _NO_CLASS))
    curves = [m.outputs.details.get("relearning") for m in (run, reference)]
    if curves[0] is not None and curves[1] is not None:
        times = [relearn_time(c[run.due.index(audit)], threshold) for c in curves if c is not None]
        index = anamnesis(times[0], times[1], limit)
        why = f"neither relearns within {limit} steps" if times[1] != 0 else "the reference needs no step"
        rows.append(row(event, kind, name, "anamnesis", index, n, why))
    return rows


def _calibrated(
    event: int, kind: str, audit: Audit, run: Outputs, reference: Outputs, plan: EvaluationPlan
) -> list[Row]:
    """Return attacks on how far the run moves every sample from where the reference has it; 0.5 if it never does.

    What is hard or easy for every model cancels (difficulty calibration, Watson et al. 2022).
    """
    name, classes, forget, others = audit.request.name, plan.classes, audit.forget, audit.non_members
    moves: dict[str, np.ndarray | None] = {"loss": _moved(run.losses, reference.losses)}
    if "margins" in run.details and "margins" in reference.details:
        moves["confidence"] = np.exp(-reference.losses) - np.exp(-run.losses)
        moves["entropy"] = _moved(run.details["entropies"], reference.details["entropies"])
    else:
        moves |= {"confidence": None, "entropy": None}
    rows, aucs = [], []
    for key, v in moves.items():
        auc = None if v is None else membership_auc(v[forget], classes[forget], v[others], classes[others])
        why = _NO_CLASS if v is None else _NO_TEST
        rows.append(row(event, kind, name, f"calibrated_{key}_auc", auc, len(forget), why))
    for outputs in (run, reference):
        v = outputs.losses
        aucs.append(membership_auc(v[forget], classes[forget], v[others], classes[others]))
    apart = None if aucs[0] is None or aucs[1] is None else abs(aucs[0] - aucs[1])
    rows.append(row(event, kind, name, "streisand", apart, len(forget), _NO_TEST))
    return rows


def _moved(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the difference; 0 where both are infinite (an output that neither model may use)."""
    with np.errstate(invalid="ignore"):
        return np.where(values == reference, 0.0, values - reference)


def held_out_loss(audit: Audit, losses: np.ndarray) -> float:
    """Return the loss at which the request's data counts as learned again, given all losses before the request."""
    return float(losses[audit.forget_test if len(audit.forget_test) else audit.forget].mean()) + SLACK
