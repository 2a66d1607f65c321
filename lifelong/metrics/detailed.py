"""One request measured in detail on one model, when it is served and at the end: attacks, and calibration."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lifelong.evaluation.distributions import Distributions, mean_over
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.formulas.calibration import expected_calibration_error
from lifelong.formulas.distance import zero_retrain_forgetting
from lifelong.formulas.membership import (
    MOST_PER_SIDE,
    cross_validated_accuracy,
    efficacy_attack,
    entropy_attack,
    membership_auc,
    membership_ks,
    membership_p,
)
from lifelong.formulas.quality import Quality
from lifelong.results.table import Row, row
from strategies.metric import Better, Metric
from streams.positions import positions_in
from streams.randomness import Key

NO_CLASS = "the objective predicts no class"
NO_TEST = "a class of the forget set has no test samples"
NO_SIDES = "there is no live training sample of the probe, or no test sample that counts"


_ECE = "Expected calibration error on {}: mean distance between confidence and accuracy over 15 bins."
_ECE_OF: tuple[tuple[str, str, Better], ...] = (
    ("retain", "training samples that are learned and not deleted", "lower"),
    ("sample", "all test samples of the units held", "lower"),
    ("forget", "the training samples that a request deletes", "reference"),
    ("forget_test", "test data of the classes, tasks or users that a request names", "reference"),
)

METRICS: dict[str, Metric] = {
    "mia_efficacy": Metric(
        "MIA: share of the forget set that an attack takes for unseen (RBF support vector machine on the confidence, "
        "fitted on retained training data against test data).",
        "share",
        "reference",
    ),
    "entropy_member_rate": Metric(
        "Share of the forget set that an attack takes for members (logistic regression on the entropy, fitted on "
        "retained training data against test data); the other way round than mia_efficacy.",
        "share",
        "reference",
    ),
    "attack_accuracy": Metric(
        "Cross-validated accuracy of telling the forget set from as many unseen samples of its classes by their loss "
        "(logistic regression); 0.5 is chance.",
        "share",
        "reference",
    ),
    "entropy_auc": Metric(
        "As membership_auc, by the entropy of the prediction instead of the loss.", "AUC", "reference"
    ),
    "modified_entropy_auc": Metric(
        "As membership_auc, by the modified entropy, which is low only where the model is sure of the label.",
        "AUC",
        "reference",
    ),
    "membership_ks": Metric(
        "Two-sided distance (Kolmogorov-Smirnov) between the log odds of the forget set and of unseen samples of its "
        "classes: also seen where some of the forget set stands out high and some low.",
        "0 to 1",
        "reference",
    ),
    "membership_p": Metric(
        "p-value of membership_auc, two-sided: how often labels dealt out anew within each class give an AUC as far "
        "from 0.5. Uniform for a model that never saw the forget set, if that was drawn at random.",
        "probability",
        "neither",
    ),
    **{
        f"{subset}_ece": Metric(_ECE.format(meaning), "0 to 1", better, 0.0 if better == "lower" else None)
        for subset, meaning, better in _ECE_OF
    },
    "zrf": Metric(
        "1 - Jensen-Shannon divergence in bits between the predictions on the forget set and an untrained network's.",
        "0 to 1",
        "reference",
    ),
}


def is_private(request: RequestPlan) -> bool:
    """Return whether retraining without the named data is the target: not so where bad data is to be corrected.

    What a correction does not name is bad as well, and still there: it is a member of the same population, and a
    model like the retrained one would go on being wrong.
    """
    return request.deletion.reason != "correct"


@dataclass(slots=True)
class Known:
    """What has been told of one model after one event, by the names of requests."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    p_values: dict[str, list[Row]] = field(default_factory=dict)
    efficacies: dict[str, float] = field(default_factory=dict)


class Detailed:
    """Measures one model at one event in detail. Attacks that are fitted on the model are fitted once."""

    def __init__(
        self,
        model: str,
        event: int,
        outputs: Outputs,
        plan: EvaluationPlan,
        random: Distributions | None,
        known: Known | None = None,
    ) -> None:
        """Take the outputs of `model` after `event`.

        Args:
            model: name for its rows.
            event: one at which some request is due.
            outputs: with details.
            plan: what they were measured on.
            random: what an untrained network predicts at the event's detailed positions, or None.
            known: what has been told of these outputs before, which is not worked out again.
        """
        self.outputs, self.event, self._model, self._plan, self._random = outputs, event, model, plan, random
        self.detailed = plan.detailed(event)
        self.live, self.tests = plan.live(event), plan.counting_tests(event)
        self._known = Known() if known is None else known

    def rows(self, request: RequestPlan) -> list[Row]:
        """Return what the model says of one request's data."""
        if request.name not in self._known.rows:
            self._known.rows[request.name] = self._measure(request)
        return self._known.rows[request.name]

    def p_values(self, request: RequestPlan) -> list[Row]:
        """Return how likely chance is to show what the attack by loss shows."""
        if not is_private(request):
            return []
        if request.name not in self._known.p_values:
            self._known.p_values[request.name] = [self._p_value(request)]
        return self._known.p_values[request.name]

    def _p_value(self, request: RequestPlan) -> Row:
        losses, classes, forget, unseen = self.outputs.losses, self._plan.classes, request.forget, request.non_members
        p = membership_p(losses[forget], classes[forget], losses[unseen], classes[unseen])
        return row(self.event, self._model, request.name, "membership_p", p, len(forget), NO_TEST)

    def _measure(self, request: RequestPlan) -> list[Row]:
        name, n = request.name, len(request.forget)
        rows = self._attacks(request) if is_private(request) else []
        zrf = None
        predicted = self.outputs.details.distributions
        if predicted is not None and self._random is not None:
            zrf = mean_over(
                zero_retrain_forgetting, predicted, self._random, positions_in(self.detailed, request.forget)
            )
        rows.append(row(self.event, self._model, name, "zrf", zrf, n, NO_CLASS))
        rows.append(self._calibration(name, "forget_ece", request.forget, ""))
        no_test = "no test data belongs to the request"
        return [*rows, self._calibration(name, "forget_test_ece", request.forget_test, no_test)]

    def calibration(self) -> list[Row]:
        """Return how well calibrated the model is on what it retains."""
        return [
            self._calibration("stream", "retain_ece", self.live, "no training sample of the probe is live"),
            self._calibration("stream", "sample_ece", self.tests, "no unit with test samples is held"),
        ]

    def _calibration(self, subject: str, metric: str, positions: np.ndarray, nothing: str) -> Row:
        certainty, error = self.outputs.details.certainty, None
        if certainty is not None and len(positions):
            error = expected_calibration_error(certainty.confidences[positions], self.outputs.scores[positions])
        why = nothing if certainty is not None else NO_CLASS
        return row(self.event, self._model, subject, metric, error, len(positions), why)

    def quality(self, request: RequestPlan) -> Quality | None:
        """Return UA, RA, TA and MIA, or None where one of them is undefined."""
        efficacy = self._efficacy(request)
        if efficacy is None:
            return None
        scores = self.outputs.scores
        forget, retain, test = (float(scores[where].mean()) for where in (request.forget, self.live, self.tests))
        return Quality(forget, retain, test, efficacy)

    def _attacks(self, request: RequestPlan) -> list[Row]:
        """Return the population attacks; see `lifelong.formulas.membership`."""
        model, event, name, n = self._model, self.event, request.name, len(request.forget)
        certainty, classes = self.outputs.details.certainty, self._plan.classes
        if certainty is None:
            names = ["mia_efficacy", "entropy_member_rate", "attack_accuracy"]
            names += ["entropy_auc", "modified_entropy_auc", "membership_ks"]
            return [row(event, model, name, metric, None, n, NO_CLASS) for metric in names]
        forget, non_members = request.forget, request.non_members
        rate = None if self._by_entropy is None else self._by_entropy(certainty.entropies[forget])
        accuracy = None
        if (unseen := matched(request, self._plan)) is not None:
            losses = self.outputs.losses
            splits = (Key(self._plan.seed) / "splits" / event).number() % 2**32
            accuracy = cross_validated_accuracy(losses[unseen[0]], losses[unseen[1]], splits)
        values: list[tuple[str, float | None, str]] = [
            ("mia_efficacy", self._efficacy(request), NO_SIDES),
            ("entropy_member_rate", rate, NO_SIDES),
            ("attack_accuracy", accuracy, "it takes ten samples to forget and as many unseen ones of their classes"),
        ]
        attacked = {"entropy_auc": certainty.entropies, "modified_entropy_auc": certainty.modified_entropies}
        for metric, v in attacked.items():
            values.append(
                (metric, membership_auc(v[forget], classes[forget], v[non_members], classes[non_members]), NO_TEST)
            )
        v = certainty.margins
        values.append(
            ("membership_ks", membership_ks(v[forget], classes[forget], v[non_members], classes[non_members]), NO_TEST)
        )
        return [row(event, model, name, metric, value, n, why) for metric, value, why in values]

    def _efficacy(self, request: RequestPlan) -> float | None:
        known = self._known.efficacies
        if request.name not in known and self._by_confidence is not None:
            known[request.name] = self._by_confidence(self._confidences[request.forget])
        return known.get(request.name)

    @functools.cached_property
    def _confidences(self) -> np.ndarray:
        return np.exp(-self.outputs.losses.astype(np.float64))

    @functools.cached_property
    def _by_confidence(self) -> Callable[[np.ndarray], float] | None:
        """The attack of mia_efficacy, which knows nothing of a request: fitted once for all of them."""
        sides = self._sides()
        if self.outputs.details.certainty is None or sides is None:
            return None
        return efficacy_attack(self._confidences[sides[0]], self._confidences[sides[1]])

    @functools.cached_property
    def _by_entropy(self) -> Callable[[np.ndarray], float] | None:
        """The attack of entropy_member_rate, fitted once as well."""
        sides, certainty = self._sides(), self.outputs.details.certainty
        if certainty is None or sides is None:
            return None
        return entropy_attack(certainty.entropies[sides[0]], certainty.entropies[sides[1]])

    def _sides(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return as many live training samples as test samples, drawn by name: the same ones for every model."""
        n = min(len(self.live), len(self.tests), MOST_PER_SIDE)
        if not n:
            return None
        ids, key = self._plan.ids, Key(self._plan.seed) / "attack"
        return self.live[key.order(ids[self.live])[:n]], self.tests[key.order(ids[self.tests])[:n]]


def matched(request: RequestPlan, plan: EvaluationPlan) -> tuple[np.ndarray, np.ndarray] | None:
    """Return as many samples of the forget set as unseen ones of its classes, drawn by name; None if there are none."""
    key, ids = Key(plan.seed) / "matched", plan.ids
    pairs = []
    for c in np.unique(plan.classes[request.forget]):
        sides = [np.asarray(part[plan.classes[part] == c]) for part in (request.forget, request.non_members)]
        count = min(len(side) for side in sides)
        pairs.append([side[key.order(ids[side])[:count]] for side in sides])
    forget, unseen = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return (forget, unseen) if len(forget) else None
