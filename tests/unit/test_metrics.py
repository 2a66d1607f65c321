"""Metrics against tables worked out by hand, and against scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.outputs import Details, Outputs
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.evaluation.planning import plan_evaluation
from lifelong.formulas.distance import cka_distance, cosine, euclidean, jensen_shannon
from lifelong.formulas.membership import membership_auc
from lifelong.metrics.accumulation import Accumulation, unit_means
from lifelong.metrics.gaps import distance_rows, request_gap_rows, stream_gap_rows
from lifelong.metrics.measure import Measure
from lifelong.metrics.relapse import Relapse, mean_relapse
from lifelong.metrics.requests import (
    RequestScores,
    attribution,
    attribution_rows,
    collateral,
    mean_rows,
    service_rows,
)
from lifelong.results.table import Row, row
from strategies.outcome import Outcome
from streams.events import DeletionRequest, Experience, Unit
from streams.plan import Again, Learn, Plan, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key
from streams.schedules import poisson
from streams.stream import Stream

NOTHING = np.array([], dtype=np.int64)


class Life:
    """Feeds unit accuracies by hand: every unit has four test samples, the first half of one class."""

    def __init__(self, units: int, start: list[float] | None = None) -> None:
        self.units = units
        self.accumulation = Accumulation(
            np.repeat(np.arange(units), 4), np.arange(4 * units), units, [f"u{u}" for u in range(units)], "accuracy"
        )
        self.accumulation.start(self.scores(start or [0.0] * units))
        self.since, self.seen = np.full(units, -1), np.zeros(units, dtype=bool)
        self.alive = np.ones(4 * units, dtype=bool)
        self.events = 0

    def scores(self, accuracies: list[Any]) -> np.ndarray:
        """A number is the accuracy of a unit, reached by its last samples; a tuple is the scores of its samples."""
        parts = [a if isinstance(a, tuple) else tuple(i >= 4 - round(4 * a) for i in range(4)) for a in accuracies]
        return np.array(parts, dtype=np.float32).reshape(-1)

    def after(
        self, accuracies: list[Any], learned: int | None = None, deleted: slice | None = None, back: slice | None = None
    ) -> dict[str, Row]:
        """Let an event pass and return its rows by ``subject.metric``."""
        if deleted is not None:
            self.alive = self.alive.copy()
            self.alive[deleted] = False
        if back is not None:
            self.alive = self.alive.copy()
            self.alive[back] = True
        if learned is not None:
            self.seen[learned] = True
        left = self.alive.reshape(self.units, 4).any(1)
        held = self.seen & left
        self.since = np.where(held, np.where(self.since < 0, self.events, self.since), -1)
        rows = self.accumulation.update(
            self.events, self.scores(accuracies), self.alive, self.since.copy(), self.seen.copy()
        )
        self.events += 1
        return {f"{r.subject}.{r.metric}": r for r in rows}


def values(rows: dict[str, Row], *metrics: str) -> list[float | None]:
    return [rows[f"stream.{m}"].value for m in metrics]


BOTH = ("average_accuracy", "forgetting_from_first", "forgetting_from_best")


def test_three_units_by_hand() -> None:
    life = Life(3, start=[0.25, 0.0, 0.25])
    rows = life.after([1.0, 0.25, 0.0], learned=0)
    assert values(rows, *BOTH) == [1.0, None, None]
    assert rows["stream.forgetting_from_first"].reason == "no unit was learned before this event"
    assert values(rows, "plasticity", "forward_transfer") == [1.0, None]
    rows = life.after([0.5, 0.75, 0.5], learned=1)
    assert values(rows, *BOTH) == [0.625, 0.5, 0.5]
    # Unit 1 stood at .25 before it was learned and at 0 in the beginning.
    assert values(rows, "plasticity", "forward_transfer", "backward_transfer") == [0.875, 0.25, -0.5]
    rows = life.after([0.75, 1.0, 1.0], learned=2)
    # From first: (1 - .75, .75 - 1) / 2 = 0. From best: (1 - .75, .75 - 1) / 2, the same so far.
    assert values(rows, *BOTH) == [pytest.approx(2.75 / 3), 0.0, 0.0]
    assert values(rows, "plasticity", "forward_transfer") == [pytest.approx(2.75 / 3), 0.25]  # (.25 + (.5 - .25)) / 2
    rows = life.after([0.25, 0.5, 1.0])
    # From first: (.75 + .25 + 0) / 3. From best: (1 - .25, 1 - .5, 1 - 1) / 3.
    assert values(rows, *BOTH) == [pytest.approx(1.75 / 3), pytest.approx(1 / 3), pytest.approx(1.25 / 3)]
    assert rows["u1.accuracy"] == Row(3, "run", "u1", "accuracy", 0.5, 4)
    assert rows["stream.average_accuracy"].n == 3


def test_over_a_life_every_unit_counts_whenever_it_is_held() -> None:
    """CLPU's ACC and Forgetting weigh events by how many units are held, unlike a mean of means."""
    life = Life(2)
    both = ("lifetime_accuracy", "lifetime_forgetting")
    assert values(life.after([1.0, 0.0], learned=0), *both) == [1.0, 0.0]
    assert values(life.after([0.5, 0.75], learned=1), *both) == [2.25 / 3, 0.5 / 3]
    rows = life.after([0.0, 0.5], deleted=slice(0, 4))
    assert values(rows, *both) == [2.75 / 4, 0.75 / 4]
    assert rows["stream.lifetime_accuracy"].n == 4
    assert (1.0 + 1.25 / 2 + 0.5) / 3 > 2.75 / 4 + 0.01


def test_relearning_a_unit_to_perfection_is_not_forgetting_it() -> None:
    """Avalanche 0.6 prints a forgetting of 1.0 here."""
    life = Life(2)
    life.after([1.0, 0.0], learned=0)
    life.after([0.0, 1.0], learned=1)
    rows = life.after([1.0, 0.0], learned=0)
    # Unit 0 lost nothing; unit 1 lost everything.
    assert values(rows, *BOTH) == [0.5, 0.5, 0.5]
    rows = life.after([1.0, 1.0], learned=1)
    assert values(rows, *BOTH) == [1.0, 0.0, 0.0]


def test_backward_transfer_is_positive_when_old_units_improve() -> None:
    life = Life(2)
    life.after([0.5, 0.0], learned=0)
    rows = life.after([1.0, 1.0], learned=1)
    assert values(rows, "backward_transfer", *BOTH[1:]) == [0.5, -0.5, -0.5]


def test_deleting_half_a_unit_does_not_look_like_forgetting_the_other_half() -> None:
    life = Life(2)
    life.after([(1, 1, 1, 0), 0.0], learned=0)
    life.after([(1, 0, 1, 1), 1.0], learned=1)
    rows = life.after([(0, 0, 1, 1), 1.0], deleted=slice(0, 2))
    # Of what still counts of unit 0 there was 1/2 when it was learned, 1 later, 1 now.
    assert rows["u0.accuracy"] == Row(2, "run", "u0", "accuracy", 1.0, 2)
    assert values(rows, *BOTH) == [1.0, -0.25, 0.0]
    assert values(rows, "plasticity", "deleted_accuracy") == [0.75, 0.0]
    assert rows["u0.deleted_accuracy"] == Row(2, "run", "u0", "deleted_accuracy", 0.0, 2)
    rows = life.after([(1, 0, 0, 1), 1.0])
    assert values(rows, *BOTH, "deleted_accuracy") == [0.75, 0.0, 0.25, 0.5]


def test_a_unit_deleted_as_a_whole_is_apart_until_it_is_learned_again() -> None:
    life = Life(2)
    life.after([1.0, 0.0], learned=0)
    life.after([0.75, 1.0], learned=1)
    rows = life.after([0.0, 0.75], deleted=slice(0, 4))
    assert values(rows, *BOTH) == [0.75, 0.25, 0.25]
    assert "u0.accuracy" not in rows
    assert values(rows, "deleted_accuracy") == [0.0]
    assert rows["stream.average_accuracy"].n == 1
    rows = life.after([0.25, 0.75])
    assert values(rows, "deleted_accuracy") == [0.25]
    # A new incarnation starts anew: what the first one reached is no promise.
    rows = life.after([0.5, 0.75], learned=0, back=slice(0, 4))
    assert values(rows, *BOTH, "deleted_accuracy") == [0.625, 0.25, 0.25, None]
    assert values(rows, "plasticity") == [0.75]
    rows = life.after([0.25, 0.75])
    assert values(rows, *BOTH) == [0.5, 0.25, 0.25]


def test_everything_deleted_is_undefined_and_says_why() -> None:
    life = Life(1)
    life.after([1.0], learned=0)
    rows = life.after([0.0], deleted=slice(0, 4))
    assert values(rows, *BOTH, "plasticity", "sample_accuracy") == [None] * 5
    assert rows["stream.average_accuracy"].reason == "no unit with test samples is held"
    assert all(r.value is not None or r.reason for r in rows.values())


def test_a_single_unit_has_no_past() -> None:
    life = Life(1, start=[0.25])
    rows = life.after([0.75], learned=0)
    assert values(rows, *BOTH) == [0.75, None, None]
    assert values(rows, "forward_transfer", "backward_transfer", "deleted_accuracy") == [None, None, None]
    rows = life.after([0.5])
    assert values(rows, *BOTH, "forward_transfer") == [0.5, 0.25, 0.25, None]


def test_units_without_test_samples_do_not_count() -> None:
    accumulation = Accumulation(np.array([0, 0]), np.array([0, 1]), 2, ["full", "empty"], "accuracy")
    accumulation.start(np.zeros(2))
    alive, seen = np.ones(2, dtype=bool), np.array([True, True])
    rows = accumulation.update(0, np.array([1.0, 0.0]), alive, np.array([0, 0]), seen)
    found = {f"{r.subject}.{r.metric}": r.value for r in rows}
    assert found["stream.average_accuracy"] == 0.5
    assert "empty.accuracy" not in found


def test_average_weighs_units_and_sample_accuracy_weighs_samples() -> None:
    unit_of, position_of = np.array([0, 1, 1, 1]), np.arange(4)
    accumulation = Accumulation(unit_of, position_of, 2, ["a", "b"], "accuracy")
    accumulation.start(np.zeros(4))
    alive, seen = np.ones(4, dtype=bool), np.array([True, True])
    rows = accumulation.update(0, np.array([1.0, 0.0, 0.0, 0.0]), alive, np.array([0, 0]), seen)
    found = {r.metric: r.value for r in rows if r.subject == "stream"}
    assert (found["average_accuracy"], found["sample_accuracy"]) == (0.5, 0.25)


def slow_forgetting(history: list[np.ndarray], alive: np.ndarray, since: np.ndarray, units: int) -> list[float | None]:
    """The definitions, read from the whole history every time."""
    first, best = [], []
    for u in range(units):
        if 0 <= since[u] < len(history) - 1 and alive[4 * u : 4 * u + 4].any():
            own = [h[4 * u : 4 * u + 4][alive[4 * u : 4 * u + 4]].mean() for h in history[since[u] :]]
            first.append(own[0] - own[-1])
            best.append(max(own[:-1]) - own[-1])
    return [float(np.mean(v)) if v else None for v in (first, best)]


@given(data=st.data())
def test_running_forgetting_equals_the_definition(data: st.DataObject) -> None:
    units = 3
    life, history = Life(units), []
    for _ in range(data.draw(st.integers(2, 8))):
        scores = data.draw(st.lists(st.integers(0, 1), min_size=4 * units, max_size=4 * units))
        accuracies = [tuple(scores[4 * u : 4 * u + 4]) for u in range(units)]
        kind = data.draw(st.sampled_from(["learn", "delete", "nothing", "return"]))
        at = data.draw(st.integers(0, 2 * units - 1))
        half = slice(2 * at, 2 * at + 2)
        history.append(life.scores(accuracies).astype(np.float64))
        if kind == "learn":
            rows = life.after(accuracies, learned=at // 2)
        elif kind == "delete":
            rows = life.after(accuracies, deleted=half)
        elif kind == "return":
            rows = life.after(accuracies, learned=at // 2, back=half)
        else:
            rows = life.after(accuracies)
        expected = slow_forgetting(history, life.alive, life.since, units)
        for found, wanted in zip(values(rows, *BOTH[1:]), expected, strict=True):
            assert found == (None if wanted is None else pytest.approx(wanted))


def test_unit_means_lets_a_sample_count_for_several_units() -> None:
    means, counts = unit_means(
        np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 3, np.array([True, True, False])
    )
    assert means[:2].tolist() == [0.5, 0.0]
    assert np.isnan(means[2])
    assert counts.tolist() == [2, 1, 0]


# --- requests -------------------------------------------------------------------------------------------------------


def test_collateral_by_hand() -> None:
    before, after = np.array([90.0, 80.0, 70.0]), np.array([10.0, 78.0, 71.0])
    others = np.array([False, True, True])
    assert collateral(before, after, others) == (3.0, 1.5, 0.5)
    # A unit that was never seen, or has no number, does not enter.
    assert collateral(before, after, np.array([False, True, False])) == (2.0, 2.0, 2.0)
    assert collateral(before, np.array([10.0, 78.0, np.nan]), others) == (2.0, 2.0, 2.0)
    assert collateral(before, after, np.zeros(3, dtype=bool)) is None


def small_plan(tools: Any, scheduled: list[Scheduled], service: Service = Service()) -> tuple[Stream, EvaluationPlan]:  # noqa: B008
    """Three units of one class each, 6 samples to learn and 10 to test with."""
    source = tools.source(num_classes=3, per_class=6, test_per_class=10)
    units, experiences = [], []
    for c in range(3):
        mine = source.class_ids == c
        units.append(Unit(f"u{c}", (c,), np.flatnonzero(mine & source.is_test)))
        experiences.append(Experience(f"e{c}", (c,), np.flatnonzero(mine & ~source.is_test)))
    stream = assemble(Plan(source, tuple(units), tuple(experiences)), scheduled, service, Key(0))
    return stream, plan_evaluation(stream, EvaluationConfig(probe=0))


def test_a_unit_without_test_samples_is_held_from_when_it_is_learned(tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=6)
    tests = (source.test_ids[source.class_ids[source.test_ids] == 0], np.array([], dtype=np.int64))
    units = tuple(Unit(f"u{c}", (c,), tests[c]) for c in range(2))
    taught = [source.train_ids[source.class_ids[source.train_ids] == c] for c in range(2)]
    experiences = tuple(Experience(f"e{c}", (c,), ids) for c, ids in enumerate(taught))
    stream = assemble(Plan(source, units, experiences), [Learn(0), Learn(1)], Service(), Key(0))
    plan = plan_evaluation(stream, EvaluationConfig(probe=0))
    assert [plan.since[event].tolist() for event in range(2)] == [[0, -1], [0, 1]]


def outputs_with(plan: EvaluationPlan, accuracies: list[float], forget: float = 0.0) -> Outputs:
    """Ten test samples per unit with that accuracy; training samples of forget sets with accuracy `forget`."""
    scores = np.zeros(len(plan.ids), dtype=np.float32)
    for audit in plan.requests:
        scores[audit.forget[: round(forget * len(audit.forget))]] = 1
    for u, accuracy in enumerate(accuracies):
        scores[plan.position_of[plan.unit_of == u][: round(10 * accuracy)]] = 1
    return Outputs(scores, 1 - scores)


def test_collateral_retained_drop_and_relapse_over_a_stream(tools: Any) -> None:
    stream, plan = small_plan(tools, [Learn(0), Learn(1), Learn(2), RequestSpec("class", (0,)), Again(0)])
    measure = Measure(stream, plan, "accuracy")
    measure.start(outputs_with(plan, [0, 0, 0]))
    for event in range(2):
        measure.update(event, outputs_with(plan, [0.9, 0.8, 0.7]))
    measure.update(2, outputs_with(plan, [0.9, 0.8, 0.7]))
    rows = {f"{r.subject}.{r.metric}": r for r in measure.update(3, outputs_with(plan, [0.1, 0.8 - 0.2, 0.8], 0.5))}
    assert rows["request-0.collateral"].value == pytest.approx(0.3)  # |.8 - .6| + |.7 - .8|
    assert rows["request-0.collateral_mean"].value == pytest.approx(0.15)
    assert rows["request-0.retained_drop"].value == pytest.approx(0.05)
    assert rows["request-0.collateral"].n == 2
    assert rows["request-0.forget_accuracy"].value == 0.5
    assert rows["request-0.forget_test_accuracy"].value == pytest.approx(0.1)
    assert "request-0.raw_relapse" not in rows
    # The class is learned again: this request is answered, and its rows end here.
    assert not [r for r in measure.update(4, outputs_with(plan, [1, 1, 1])) if r.subject == "request-0"]


def test_collateral_leaves_out_what_was_never_learned(tools: Any) -> None:
    stream, plan = small_plan(tools, [Learn(0), Learn(1), RequestSpec("class", (0,)), Learn(2)])
    measure = Measure(stream, plan, "accuracy")
    measure.start(outputs_with(plan, [0, 0, 0.7]))
    measure.update(0, outputs_with(plan, [0.9, 0.8, 0.7]))
    measure.update(1, outputs_with(plan, [0.9, 0.8, 0.7]))
    rows = {f"{r.subject}.{r.metric}": r for r in measure.update(2, outputs_with(plan, [0.1, 0.7, 0.1]))}
    assert rows["request-0.collateral"].value == pytest.approx(0.1)
    assert rows["request-0.collateral"].n == 1


def test_collateral_counts_units_that_were_forgotten_earlier(tools: Any) -> None:
    stream, plan = small_plan(
        tools, [Learn(0), Learn(1), Learn(2), RequestSpec("class", (0,)), RequestSpec("class", (1,))]
    )
    measure = Measure(stream, plan, "accuracy")
    measure.start(outputs_with(plan, [0, 0, 0]))
    for event in range(4):
        measure.update(event, outputs_with(plan, [0.2, 0.8, 0.8]))
    rows = {f"{r.subject}.{r.metric}": r for r in measure.update(4, outputs_with(plan, [0.5, 0.1, 0.8]))}
    assert rows["request-1.collateral"].value == pytest.approx(
        0.3
    )  # unit 0 came back a little; unit 1 is the request's
    assert rows["request-1.collateral"].n == 2


def test_relapse_keeps_the_bump_that_went_away(tools: Any) -> None:
    stream, plan = small_plan(tools, [Learn(0), Learn(1), RequestSpec("class", (0,)), Learn(2)])
    audit, relapse = plan.requests[0], Relapse("run", "raw_relapse")
    table = []
    for event, accuracy in ((2, 0.1), (3, 0.4), (4, 0.2), (5, 0.3)):
        scores = outputs_with(plan, [accuracy, 0, 0]).scores
        table.append({r.metric: r.value for r in relapse.update(event, audit, scores)})
    assert table[0] == {}
    assert [t["raw_relapse_test"] for t in table[1:]] == pytest.approx([0.3, 0.1, 0.2])
    assert [t["raw_relapse_test_max"] for t in table[1:]] == pytest.approx([0.3, 0.3, 0.3])
    assert [t["raw_relapse"] for t in table[1:]] == [0, 0, 0]


def test_relapse_can_be_negative(tools: Any) -> None:
    stream, plan = small_plan(tools, [Learn(0), Learn(1), RequestSpec("class", (0,)), Learn(2)])
    relapse, table = Relapse("run", "raw_relapse"), []
    for event, accuracy in ((2, 0.5), (3, 0.1)):
        table = relapse.update(event, plan.requests[0], outputs_with(plan, [accuracy, 0, 0]).scores)
    found = {r.metric: r.value for r in table}
    assert found["raw_relapse_test"] == found["raw_relapse_test_max"] == pytest.approx(-0.4)


def test_relapse_is_what_goes_beyond_the_reference_s_own_change(tools: Any) -> None:
    """Doing nothing fades by 0.5 where retraining fades by 0.2: -0.3, as far from 0 as coming back by 0.3 is."""
    _, plan = small_plan(tools, [Learn(0), Learn(1), RequestSpec("class", (0,)), Learn(2)])
    (request,) = plan.requests
    relapse, rows = Relapse("retrained", "relapse"), []
    for event, run, reference in ((2, 0.9, 0.3), (4, 0.4, 0.1), (5, 0.8, 0.1)):
        sides = (np.full(len(plan.ids), score) for score in (run, reference))
        rows += relapse.update(event, request, *sides)
    found = {(r.event, r.subject, r.metric): r.value for r in [*rows, *mean_relapse(rows)]}
    assert found[4, request.name, "relapse"] == pytest.approx(-0.3)
    assert found[5, request.name, "relapse"] == found[5, request.name, "relapse_max"] == pytest.approx(0.1)
    assert found[4, "requests", "relapse"] == pytest.approx(-0.3)
    assert found[4, "requests", "abs_relapse"] == pytest.approx(0.3)
    assert not [key for key in found if key[0] == 2]
    assert {r.model for r in rows} == {"retrained"}


def test_of_relapse_what_comes_back_does_not_make_up_for_what_fades() -> None:
    rows = [Row(4, "retrained", f"request-{n}", "relapse", value, 10) for n, value in enumerate((0.4, -0.4))]
    assert {r.metric: r.value for r in mean_relapse(rows)} == {"relapse": 0.0, "abs_relapse": 0.4}


def test_relapse_is_about_the_samples_that_are_deleted_still(tools: Any) -> None:
    _, plan = small_plan(tools, [Learn(0), Learn(1), RequestSpec("class", (0,)), Learn(2)])
    until = np.full(6, 4)
    until[0] = 3
    request = replace(plan.requests[0], forget_until=until)
    assert request.until == 4
    assert len(request.at(2).forget) == 6
    assert request.at(3).forget.tolist() == request.forget[1:].tolist()
    relapse, scores = Relapse("run", "raw_relapse"), np.zeros(len(plan.ids))
    scores[request.forget[0]] = 1.0
    assert relapse.update(2, request.at(2), scores) == []
    now = np.zeros(len(plan.ids))
    now[request.forget[1]] = 1.0
    found = {r.metric: (r.value, r.n) for r in relapse.update(3, request.at(3), now)}
    assert found["raw_relapse"] == (pytest.approx(0.2), 5), "0.0 with the sample that has been learned again"
    beside = Relapse("retrained", "relapse")
    beside.update(2, request.at(2), scores, np.zeros(len(plan.ids)))
    found = {r.metric: (r.value, r.n) for r in beside.update(3, request.at(3), now, scores)}
    assert found["relapse"] == (pytest.approx(0.2), 5)


def test_means_over_requests_leave_out_what_is_undefined() -> None:
    rows = [
        row(3, "run", "r0", "auc", 0.5, 4),
        row(3, "run", "r1", "auc", None, 4, "why"),
        row(3, "run", "r2", "auc", 1, 4),
    ]
    assert mean_rows(3, "run", rows, ("auc", "js")) == [
        Row(3, "run", "requests", "auc", 0.75, 2),
        Row(3, "run", "requests", "js", None, 0, "no request has a value"),
    ]


def test_attribution_is_the_share_of_the_gap_that_was_closed() -> None:
    assert attribution(0.5, 1.0, 0.5, 100) == 1.0
    assert attribution(1.0, 1.0, 0.5, 100) == 0.0
    assert attribution(0.0, 1.0, 0.5, 100) == 2.0  # more than retraining forgets
    assert attribution(0.9, 0.2, 0.8, 100) == pytest.approx(7 / 6)  # also where retraining knows more
    assert attribution(0.5, 0.52, 0.5, 100) is None
    rows = [
        *(row(e, "no-op", "request-0", "forget_accuracy", v, 100) for e, v in ((3, 1.0), (9, 0.5))),
        *(row(e, "no-op", "request-0", "gap_forget_accuracy", v, 100) for e, v in ((3, -0.4), (9, 0.0))),
        *(row(e, "retrained", "request-0", "forget_accuracy", 0.5, 100) for e in (3, 5, 9)),
    ]
    found = attribution_rows(rows, "accuracy", is_share=True)
    assert [(r.event, r.model, r.subject, r.metric) for r in found] == [
        (e, "no-op", "request-0", "attribution") for e in (3, 9)
    ]
    assert found[0].value == pytest.approx(0.8)
    assert (found[1].value, found[1].reason) == (
        None,
        "without the request the score is within three standard errors of retraining",
    )
    renamed = [replace(r, metric=r.metric.replace("accuracy", "negative_absolute_error")) for r in rows]
    assert [r.reason for r in attribution_rows(renamed, "negative_absolute_error", is_share=False)] == [
        "it is about scores that are shares"
    ] * 2


def test_a_row_that_is_undefined_must_say_why() -> None:
    assert row(0, "run", "s", "m", float("nan"), 1).reason == "the value is nan"
    assert row(0, "run", "s", "m", float("inf"), 1, "too large").value is None
    assert row(0, "run", "s", "m", 0.0, 1) == Row(0, "run", "s", "m", 0.0, 1)


# --- membership -----------------------------------------------------------------------------------------------------


def sklearn_auc(members: np.ndarray, of: np.ndarray, others: np.ndarray, other_of: np.ndarray) -> float:
    weights = [(of == c).sum() / (other_of == c).sum() for c in other_of]
    return float(
        roc_auc_score(
            np.repeat([1, 0], [len(members), len(others)]),
            -np.concatenate([members, others]),
            sample_weight=np.concatenate([np.ones(len(members)), weights]),
        )
    )


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 4), ties=st.booleans())
def test_membership_auc_is_scikit_learns(seed: int, classes: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    of, other_of = draw.integers(0, classes, draw.integers(1, 30)), np.repeat(np.arange(classes), 8)
    losses, other_losses = draw.exponential(size=len(of)), draw.exponential(size=len(other_of)) + of.mean()
    if ties:
        losses, other_losses = losses.round(1), other_losses.round(1)
    found = membership_auc(losses, of, other_losses, other_of)
    assert found == pytest.approx(sklearn_auc(losses, of, other_losses, other_of), abs=1e-12)


def test_membership_auc_does_not_detect_the_class() -> None:
    """A hard class among the unseen samples must not make members of an easy class stand out."""
    draw = np.random.default_rng(0)
    members, of = draw.normal(1, 0.1, 2000), np.repeat([0, 1], [1800, 200])
    members[of == 1] += 5
    others, other_of = draw.normal(1, 0.1, 2000), np.repeat([0, 1], [200, 1800])
    others[other_of == 1] += 5
    assert membership_auc(members, of, others, other_of) == pytest.approx(0.5, abs=0.03)
    unweighted = roc_auc_score(np.repeat([1, 0], 2000), -np.concatenate([members, others]))
    assert unweighted > 0.85


def test_membership_auc_null_behaviour() -> None:
    draw = np.random.default_rng(1)
    zeros = np.zeros(4000, dtype=int)
    same = membership_auc(draw.normal(size=4000), zeros, draw.normal(size=4000), zeros)
    assert same == pytest.approx(0.5, abs=0.02)
    low, high = np.zeros(5), np.ones(5)
    five = np.zeros(5, dtype=int)
    assert membership_auc(low, five, high, five) == 1.0
    assert membership_auc(high, five, low, five) == 0.0
    assert membership_auc(low, five, low, five) == 0.5
    assert membership_auc(low, five, high, five + 1) is None
    assert membership_auc(low[:0], five[:0], high, five) is None
    infinite = np.full(5, np.inf)
    assert membership_auc(infinite, five, infinite, five) == 0.5


# --- distances ------------------------------------------------------------------------------------------------------


def test_jensen_shannon_by_hand() -> None:
    p, q = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
    # In nats .368; UnCLe's code gives .511 for the same pair.
    assert jensen_shannon(p, q) * np.log(2) == pytest.approx(0.368064, abs=1e-6)
    assert jensen_shannon(p, p) == 0.0
    assert jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 1.0
    assert jensen_shannon(np.vstack([p, p]), np.vstack([q, p])) == pytest.approx(jensen_shannon(p, q) / 2)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))


def test_feature_distances_by_hand() -> None:
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 2.0]])
    assert euclidean(a, b) == pytest.approx((5 + np.sqrt(5)) / 2)
    assert cosine(a, b) == 1.0  # similarity 0 to a zero row, and to an orthogonal one
    assert cosine(a, -a) == pytest.approx(2.0)
    assert cosine(a, 7 * a) == pytest.approx(0.0)
    assert euclidean(a, a) == 0.0


def test_cka_by_hand() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(50, 4))
    rotation = np.linalg.qr(draw.normal(size=(4, 4)))[0]
    assert cka_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert cka_distance(a, 3 * a @ rotation + 1) == pytest.approx(0, abs=1e-12)
    x, y = np.array([[1.0], [0.0], [-1.0]]), np.array([[1.0], [-2.0], [1.0]])
    assert cka_distance(x, y) == pytest.approx(1.0)  # uncorrelated
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [3.0], [2.0]])
    assert cka_distance(x, y) == pytest.approx(1 - 0.5**2)  # of single features it is the squared correlation
    assert cka_distance(a, np.ones((50, 2))) is None


@pytest.mark.parametrize("distance", [euclidean, cosine])
def test_feature_distances_do_not_depend_on_batches(distance: Any) -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(10, 3)), draw.normal(size=(10, 3))
    parts = [slice(0, 4), slice(4, 8), slice(8, 10)]
    weighted = sum(distance(a[p], b[p]) * (p.stop - p.start) for p in parts) / 10
    assert distance(a, b) == pytest.approx(weighted)


def test_gaps_and_distances_on_a_small_stream(tools: Any) -> None:
    stream, plan = small_plan(tools, [Learn(0), Learn(1), Learn(2), RequestSpec("class", (0,))])
    audit = plan.requests[0]
    detailed = audit.detailed
    assert len(audit.forget) == 6
    assert plan.classes[audit.forget_test].tolist() == [0] * 10
    p = np.tile([0.9, 0.1, 0.0], (len(detailed), 1))
    ours, theirs = outputs_with(plan, [0.2, 0.6, 0.8], 0.5), outputs_with(plan, [0.0, 0.9, 0.7], 0.0)
    ours = Outputs(ours.scores, ours.losses, Details(p, np.ones((len(detailed), 2))))
    theirs = Outputs(theirs.scores, theirs.losses, Details(p[:, [1, 0, 2]], np.ones((len(detailed), 2))))
    stream_rows = {r.metric: r.value for r in stream_gap_rows(3, "retrained", ours, theirs, plan, "accuracy")}
    assert stream_rows["average_accuracy"] == pytest.approx(0.8)  # the deleted unit does not count
    assert stream_rows["gap_average_accuracy"] == pytest.approx(-0.1)
    joint = {r.metric: r for r in stream_gap_rows(3, "joint", ours, theirs, plan, "accuracy")}
    assert joint["normalised_accuracy"].value == pytest.approx(0.7 / 0.8)
    assert joint["relative_accuracy"].value == pytest.approx((0.6 / 0.9 + 0.8 / 0.7) / 2)
    nothing = stream_gap_rows(3, "joint", ours, outputs_with(plan, [0.5, 0.0, 0.4], 0.0), plan, "accuracy")
    relative = next(r for r in nothing if r.metric == "relative_accuracy")
    assert (relative.value, relative.n) == (pytest.approx(2.0), 1)  # a unit that joint scores 0 on has no share
    none = np.zeros(len(plan.ids))
    twice, once = (Outputs(none - e, none) for e in (2.0, 1.0))  # minus an error, twice that of joint
    for share in stream_gap_rows(3, "joint", twice, once, plan, "error")[:2]:
        assert (share.value, share.reason) == (None, "the reference scores below 0"), "2 would look better than 1"
    both = [RequestScores(m, 3, o, plan, "accuracy") for m, o in (("run", ours), ("retrained", theirs))]
    rows = {r.metric: r for r in request_gap_rows("retrained", audit, *both)}
    assert rows["gap_forget_accuracy"].value == 0.5
    assert rows["gap_forget_test_accuracy"].value == pytest.approx(0.2)
    assert rows["forget_accuracy"].value == 0.0
    assert rows["forget_accuracy"].model == "retrained"
    far = {r.metric: r for r in distance_rows(3, "retrained", audit, detailed, ours, theirs)}
    assert far["js"].value == pytest.approx(0.531004, abs=1e-6)
    assert far["js"].n == 10
    assert far["dd_euclidean"].value == 0.0
    assert far["dd_cka"].value is None
    assert far["dd_cka"].reason == "the features are constant"
    blind = distance_rows(3, "retrained", audit, detailed, Outputs(ours.scores, ours.losses), theirs)
    assert [r.value for r in blind] == [None] * 4
    assert all(r.reason for r in blind)


# --- latency and exposure -------------------------------------------------------------------------------------------


def audit_of(request: DeletionRequest, event: int) -> RequestPlan:
    return RequestPlan(request, event, *[NOTHING] * 6)


def test_latency_and_exposure_of_lazy_service(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("sample", (0,)), Learn(1), RequestSpec("sample", (1, 2)), Learn(2)]
    stream, _ = small_plan(tools, scheduled, Service(wait_for=2))
    request = stream.requests[0]
    assert [a.received for a in request.requests] == [1, 2]
    assert [type(e).__name__ for e in stream.events] == ["Experience", "Experience", "DeletionRequest", "Experience"]
    rows = service_rows(2, audit_of(request, 2), Outcome(exactness="bits"), 2)
    assert [(r.metric, r.value, r.n) for r in rows[:2]] == [("latency", 0.5, 2), ("exposure", 0.5, 2)]
    rows = service_rows(2, audit_of(request, 2), Outcome(exactness="none"), 2)
    assert [r.value for r in rows[:2]] == [0.5, None]
    assert rows[1].reason == "not exact: the model still derives from it"


def test_a_deadline_bounds_the_wait(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("sample", (0,)), Learn(1), Learn(2)]
    waits = {}
    for deadline in (None, 0, 1, 2):
        stream, _ = small_plan(tools, scheduled, Service(wait_for=5, deadline=deadline))
        at = next(i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest))
        waits[deadline] = service_rows(at, audit_of(stream.requests[0], at), Outcome(exactness="law"), at)[1].value
    assert waits == {None: 2.0, 0: 0.0, 1: 1.0, 2: 2.0}


@pytest.mark.nightly
def test_mean_exposure_of_a_lazy_server_under_poisson_requests(tools: Any) -> None:
    """A server that waits for K requests at rate L exposes each for (K - 1) / (2 L) learn events on average."""
    rate, wait_for, learned = 0.5, 4, 20_000
    source = tools.source(num_classes=1, per_class=learned, test_per_class=1, width=1)
    unit = Unit("all", (0,), source.test_ids)
    experiences = tuple(Experience(f"e{i}", (0,), np.array([i])) for i in range(learned))
    plan = Plan(source, (unit,), experiences)
    scheduled: list[Scheduled] = []
    live: list[int] = []
    for entry in poisson.place(plan, poisson.Config(rate=rate), Key(3)):
        if isinstance(entry, Learn):
            live.append(entry.experience)
            scheduled.append(entry)
        elif live:  # name the sample, so that drawing it does not dominate the time
            scheduled.append(RequestSpec("sample", (live.pop(),)))
    stream = assemble(plan, scheduled, Service(wait_for=wait_for), Key(0))
    exposures, count, happened = 0.0, 0, 0
    for index, event in enumerate(stream.events):
        if isinstance(event, DeletionRequest):
            exposed = service_rows(index, audit_of(event, index), Outcome(exactness="bits"), happened)[1]
            assert exposed.value is not None
            exposures, count = exposures + exposed.value * exposed.n, count + exposed.n
        else:
            happened += 1
    assert count == pytest.approx(10_000, rel=0.03)
    assert exposures / count == pytest.approx((wait_for - 1) / (2 * rate), rel=0.05)


# --- events that are not evaluated ----------------------------------------------------------------------------------


def test_events_that_are_not_evaluated_are_left_out() -> None:
    """Unit 1 is learned in event 1, which is not evaluated: it counts from event 2 on."""
    accumulation = Accumulation(np.array([0, 1]), np.array([0, 1]), 2, ["u0", "u1"], "accuracy")
    accumulation.start(np.array([0.0, 0.25]))
    alive = np.ones(2, dtype=bool)

    def after(event: int, scores: list[float], since: list[int]) -> dict[str, Row]:
        held = np.array(since)
        rows = accumulation.update(event, np.array(scores), alive, held, held >= 0)
        return {f"{r.subject}.{r.metric}": r for r in rows}

    after(0, [1.0, 0.5], [0, -1])
    rows = after(2, [0.75, 0.75], [0, 1])
    assert values(rows, "average_accuracy", "forgetting_from_first", "plasticity") == [0.75, 0.25, 0.875]
    assert values(rows, "forward_transfer") == [0.25], "before it was learned: the last evaluation, minus the start"
    rows = after(5, [0.5, 0.25], [0, 1])
    assert values(rows, "forgetting_from_first", "forgetting_from_best") == [0.5, 0.5]
    assert accumulation.accuracy_before(5, alive).tolist() == [0.75, 0.75]
    assert accumulation.accuracy_at(2, alive).tolist() == [0.75, 0.75]
    assert accumulation.accuracy_before(0, alive).tolist() == [0.0, 0.25]
