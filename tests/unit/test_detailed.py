"""What is told of a request in detail is what other code, from other libraries, makes of the same outputs and data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.outputs import Certainty, Details, Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.evaluation.planning import plan_evaluation
from lifelong.formulas.membership import membership_p
from lifelong.metrics.detailed import Detailed
from lifelong.metrics.pairs import pair_rows
from lifelong.results.table import Row
from streams.plan import Learn, RequestSpec, Service, assemble
from streams.positions import positions_in
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.stream import Stream

EVENT = 3
"""Classes 0 to 3 are learned, 0 and 1 with users first; then a user is forgotten, then class 2."""


@pytest.fixture(scope="module")
def stream(digits: Any) -> Stream:
    plan = class_incremental.build(digits, class_incremental.Config(experiences=5), 0)
    scheduled = [Learn(0), Learn(1), RequestSpec("user", (2,)), RequestSpec("class", (2,)), Learn(2)]
    return assemble(plan, scheduled, Service(), Key(0) / "requests")


@pytest.fixture(scope="module")
def plan(stream: Stream) -> EvaluationPlan:
    return plan_evaluation(stream, EvaluationConfig(probe=120))


def outputs_of(plan: EvaluationPlan, seed: int) -> Outputs:
    """Answers of a model that is right now and then, with everything that belongs to them."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(len(plan.ids), 10))
    logits[np.arange(len(plan.ids)), plan.classes] += draw.exponential(2.0, size=len(plan.ids))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = p[np.arange(len(p)), plan.classes]
    others = np.where(np.arange(10) == plan.classes[:, None], 0.0, -p * np.log1p(-p)).sum(1)
    certainty = Certainty(
        np.log(label) - np.log1p(-label), p.max(1), stats.entropy(p, axis=1), others - (1 - label) * np.log(label)
    )
    details = Details(p[plan.detailed(EVENT)], draw.normal(size=(len(plan.detailed(EVENT)), 4)), certainty)
    return Outputs((p.argmax(1) == plan.classes).astype(float), -np.log(label), details)


def by_class_auc(values: np.ndarray, members: np.ndarray, others: np.ndarray, classes: np.ndarray) -> float:
    """The AUC of "lower means member" where others of each class weigh as much as its members together."""
    share = {c: (classes[members] == c).sum() / (classes[others] == c).sum() for c in np.unique(classes[members])}
    weights = [1.0] * len(members) + [share.get(c, 0.0) for c in classes[others]]
    truth = np.repeat([1, 0], [len(members), len(others)])
    return float(roc_auc_score(truth, -np.concatenate([values[members], values[others]]), sample_weight=weights))


class Expected:
    """The same numbers from the stream itself: who was learned and deleted by the event, found by name."""

    def __init__(self, stream: Stream, plan: EvaluationPlan, outputs: Outputs, request: RequestPlan) -> None:
        self.outputs, self.plan, self.request = outputs, plan, request
        source = stream.source
        learned = np.concatenate([e.sample_ids for e in stream.events[:2]])
        deleted = np.concatenate([stream.events[2].sample_ids, stream.events[3].sample_ids])
        live = np.setdiff1d(np.intersect1d(learned, plan.ids[plan.probe]), deleted)
        tests = np.flatnonzero(source.is_test & np.isin(source.class_ids, [0, 1, 3]))
        self.live, self.tests = (positions_in(plan.ids, ids) for ids in (live, tests))
        self.forget = positions_in(plan.ids, np.sort(stream.events[request.event].sample_ids))
        self.unseen = request.non_members
        assert source.is_test[plan.ids[self.unseen]].all()
        assert set(plan.classes[self.forget]) <= set(plan.classes[self.unseen])

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """As many live samples as tests: those that come first by a name of their own."""
        count = min(len(self.live), len(self.tests))
        order = (Key(self.plan.seed) / "attack").order
        return tuple(side[order(self.plan.ids[side])[:count]] for side in (self.live, self.tests))  # type: ignore[return-value]

    def efficacy(self) -> float:
        confidence = np.exp(-self.outputs.losses)[:, None]
        members, others = self.sides()
        attack = SVC(C=3, gamma=1.0).fit(
            confidence[np.concatenate([members, others])], np.repeat([1, 0], [len(members), len(others)])
        )
        return float((attack.predict(confidence[self.forget]) == 0).mean())

    def member_rate(self) -> float:
        certainty = self.outputs.details.certainty
        assert certainty is not None
        members, others = self.sides()
        fitted = certainty.entropies[np.concatenate([members, others])]
        x = (certainty.entropies[:, None] - fitted.mean()) / fitted.std()
        attack = LogisticRegression(class_weight="balanced", tol=1e-8)
        attack.fit(x[np.concatenate([members, others])], np.repeat([1, 0], [len(members), len(others)]))
        return float((attack.predict(x[self.forget]) == 1).mean())

    def ece(self, where: np.ndarray) -> float:
        certainty = self.outputs.details.certainty
        assert certainty is not None
        total = 0.0
        for b in range(15):
            inside = [i for i in where if b / 15 < certainty.confidences[i] <= (b + 1) / 15]
            if inside:
                gap = self.outputs.scores[inside].mean() - certainty.confidences[inside].mean()
                total += len(inside) * abs(gap) / len(where)
        return total

    def ks(self) -> float:
        certainty, classes = self.outputs.details.certainty, self.plan.classes
        assert certainty is not None
        values = certainty.margins
        share = {c: float((classes[self.forget] == c).mean()) for c in np.unique(classes[self.forget])}
        worst = 0.0
        for at in values[np.concatenate([self.forget, self.unseen])]:
            below = sum(
                s * float((values[self.unseen][classes[self.unseen] == c] <= at).mean()) for c, s in share.items()
            )
            worst = max(worst, abs(float((values[self.forget] <= at).mean()) - below))
        return worst

    def means(self) -> np.ndarray:
        """UA, RA, TA as accuracies, and MIA."""
        scores = self.outputs.scores
        return np.array([*(scores[w].mean() for w in (self.forget, self.live, self.tests)), self.efficacy()])


def values(rows: list[Row]) -> dict[str, float | None]:
    return {r.metric: r.value for r in rows}


def request_at(plan: EvaluationPlan, event: int) -> RequestPlan:
    (found,) = [r for r in plan.requests if r.event == event]
    return found


@pytest.fixture(scope="module")
def request_(plan: EvaluationPlan) -> RequestPlan:
    return request_at(plan, EVENT)


def test_one_model_in_detail(stream: Stream, plan: EvaluationPlan, request_: RequestPlan) -> None:
    ours, untrained = outputs_of(plan, 0), outputs_of(plan, 9)
    random = untrained.details.distributions
    expected, told = Expected(stream, plan, ours, request_), Detailed("run", EVENT, ours, plan, random)
    rows, certainty, classes = values(told.rows(request_)), ours.details.certainty, plan.classes
    assert certainty is not None
    assert rows["mia_efficacy"] == pytest.approx(expected.efficacy())
    assert rows["entropy_member_rate"] == pytest.approx(expected.member_rate())
    for metric, value in (("entropy_auc", certainty.entropies), ("modified_entropy_auc", certainty.modified_entropies)):
        assert rows[metric] == pytest.approx(by_class_auc(value, expected.forget, expected.unseen, classes)), metric
    assert rows["membership_ks"] == pytest.approx(expected.ks())
    assert rows["forget_ece"] == pytest.approx(expected.ece(expected.forget))
    tests = positions_in(plan.ids, np.flatnonzero(stream.source.is_test & (stream.source.class_ids == 2)))
    assert rows["forget_test_ece"] == pytest.approx(expected.ece(tests))
    kept = {metric.metric: metric.value for metric in told.calibration()}
    assert kept["retain_ece"] == pytest.approx(expected.ece(expected.live))
    assert kept["sample_ece"] == pytest.approx(expected.ece(expected.tests))
    at = positions_in(plan.detailed(EVENT), expected.forget)
    p, q = ours.details.probabilities, untrained.details.probabilities
    assert p is not None
    assert q is not None
    middle = (p[at] + q[at]) / 2
    apart = (stats.entropy(p[at], middle, base=2, axis=1) + stats.entropy(q[at], middle, base=2, axis=1)) / 2
    assert rows["zrf"] == pytest.approx(1 - apart.mean())
    losses = ours.losses
    sides = (losses[expected.forget], classes[expected.forget], losses[expected.unseen], classes[expected.unseen])
    assert values(told.p_values(request_)) == {"membership_p": membership_p(*sides)}


def test_a_model_beside_its_reference(stream: Stream, plan: EvaluationPlan, request_: RequestPlan) -> None:
    ours, theirs = outputs_of(plan, 0), outputs_of(plan, 1)
    one, other = (Detailed(m, EVENT, o, plan, None) for m, o in (("run", ours), ("retrained", theirs)))
    rows = values(pair_rows("retrained", request_, one, other, plan))
    mine, its = (Expected(stream, plan, o, request_) for o in (ours, theirs))
    apart = np.abs(mine.means() - its.means())
    assert rows["average_gap"] == pytest.approx(apart.mean())
    assert [rows[f"tow_{w}"] for w in ("forget", "retain", "test")] == pytest.approx(1 - apart[:3])
    assert rows["tow"] == pytest.approx(np.prod(1 - apart[:3]))
    assert rows["tow_mia"] == pytest.approx(np.prod(1 - apart[1:]))
    sure, less = ours.details.certainty, theirs.details.certainty
    assert sure is not None
    assert less is not None
    moves = {
        "loss": ours.losses - theirs.losses,
        "confidence": np.exp(-theirs.losses) - np.exp(-ours.losses),
        "entropy": sure.entropies - less.entropies,
    }
    for name, moved in moves.items():
        auc = by_class_auc(moved, mine.forget, mine.unseen, plan.classes)
        assert rows[f"calibrated_{name}_auc"] == pytest.approx(auc), name
    aucs = [by_class_auc(o.losses, mine.forget, mine.unseen, plan.classes) for o in (ours, theirs)]
    assert rows["streisand"] == pytest.approx(abs(aucs[0] - aucs[1]))
    at = positions_in(plan.detailed(EVENT), mine.forget)
    p, q = ours.details.probabilities, theirs.details.probabilities
    assert p is not None
    assert q is not None
    assert rows["activation_distance"] == pytest.approx(np.abs(p[at] - q[at]).sum(1).mean())
    assert rows["agreement"] == pytest.approx((p[at].argmax(1) == q[at].argmax(1)).mean())


def test_what_is_to_be_corrected_is_no_secret(stream: Stream, digits: Any) -> None:
    plan = class_incremental.build(digits, class_incremental.Config(experiences=5), 0)
    scheduled = [Learn(0), Learn(1), RequestSpec("user", (2,)), RequestSpec("class", (2,), reason="correct"), Learn(2)]
    corrected = plan_evaluation(assemble(plan, scheduled, Service(), Key(0) / "requests"), EvaluationConfig(probe=120))
    told = Detailed("run", EVENT, outputs_of(corrected, 0), corrected, None)
    request = request_at(corrected, EVENT)
    assert set(values(told.rows(request))) == {"zrf", "forget_ece", "forget_test_ece"}
    assert told.p_values(request) == []
