"""Which requests are measured at which evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.changes import Changes
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.evaluation.planning import plan_evaluation
from streams.events import DeletionRequest, Request
from streams.plan import Again, Learn, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental


def plan_of(tools: Any, scheduled: list[Scheduled], **options: Any) -> EvaluationPlan:
    plan = class_incremental.build(tools.source(), class_incremental.Config(experiences=2), 0)
    return plan_evaluation(assemble(plan, scheduled, Service(), Key(0)), EvaluationConfig(probe=0, **options))


def followed(plan: EvaluationPlan) -> list[list[int]]:
    return [list(plan.followed(event)) for event in np.flatnonzero(plan.measured).tolist()]


def ten_requests() -> list[Scheduled]:
    return [Learn(0), *(RequestSpec("sample", None, 1) for _ in range(10)), Learn(1)]


@pytest.mark.parametrize(
    ("follow", "expected"),
    [
        # events: 0 learns, 1 to 10 serve requests 0 to 9, 11 learns
        ("all", [[], *([*range(n)] for n in range(1, 11)), [*range(10)]]),
        (2, [[], [0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7], [7, 8], [8, 9], [*range(10)]]),
        (
            "geometric",
            [
                *([], [0], [0, 1], [0, 1, 2], [1, 2, 3], [0, 2, 3, 4], [1, 3, 4, 5]),
                *([2, 4, 5, 6], [3, 5, 6, 7], [0, 4, 6, 7, 8], [1, 5, 7, 8, 9], [*range(10)]),
            ],
        ),
    ],
)
def test_which_requests_are_followed(tools: Any, follow: Any, expected: list[list[int]]) -> None:
    assert followed(plan_of(tools, ten_requests(), follow=follow)) == expected


def test_between_evaluations_the_next_one_looks(tools: Any) -> None:
    plan = class_incremental.build(tools.source(), class_incremental.Config(experiences=4), 0)
    scheduled: list[Scheduled] = [Learn(0), RequestSpec("sample", None, 1), Learn(1), Learn(2), Learn(3)]
    stream = assemble(plan, scheduled, Service(), Key(0))
    looks = plan_evaluation(stream, EvaluationConfig(probe=0, every=4, follow="geometric"))
    assert np.flatnonzero(looks.measured).tolist() == [0, 1, 3, 4]
    assert followed(looks) == [[], [0], [0], [0]], "after 1 event nothing is evaluated, after 2 it is"


def test_only_what_is_measured_is_looked_at(tools: Any) -> None:
    plan = plan_of(tools, ten_requests(), follow=1)
    assert plan_of(tools, ten_requests()).looked_at(3) is None
    tests = np.unique(plan.position_of)
    assert plan.looked_at(None) is not None
    assert plan.looked_at(None).tolist() == tests.tolist()
    for event in range(10):
        at = plan.looked_at(event)
        assert at is not None
        forgotten = {int(r.forget[0]) for r in plan.requests if r.event in (event, event + 1)}
        assert sorted(at.tolist()) == sorted({*tests.tolist(), *forgotten}), "the coming request's losses before it"
    assert plan.looked_at(11) is not None
    assert sorted(plan.looked_at(11).tolist()) == list(range(len(plan.ids)))


def test_what_is_measured_in_detail_is_looked_at_whoever_is_followed(tools: Any) -> None:
    scenario = class_incremental.build(tools.source(), class_incremental.Config(experiences=2), 0)
    stream = assemble(scenario, ten_requests(), Service(), Key(0))
    for options in ({}, {"detailed_every": 2}):
        plan = plan_evaluation(stream, EvaluationConfig(probe=0, follow=1, **options), follows_requests=True)
        for event in np.flatnonzero(plan.measured).tolist():
            at = plan.looked_at(event)
            assert at is not None
            assert len(np.unique(at)) == len(at)
            for request in plan.due(event):
                assert np.isin(request.forget, at).all(), "else attacks on it have nothing to go by"


def test_what_was_learned_again_is_not_followed_and_others_still_count_as_deleted(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("sample", None, 2), RequestSpec("class", (1,)), Again(0), Learn(1)]
    plan = plan_of(tools, scheduled, follow=1)
    assert followed(plan) == [[], [0], [1], [1], [1]]
    assert list(plan.deleted(2)) == [0, 1]
    assert list(plan.deleted(3)) == [1]


def test_of_a_request_that_is_learned_again_in_part_the_rest_is_left() -> None:
    """What an event learns again no longer counts as deleted from that very event on."""
    first, second = np.array([0, 1, 2]), np.array([3, 5, 9])
    ids = np.array([0, 1, 2])
    deletion = DeletionRequest("request-0", (Request("sample", (0, 1, 2), ids, ids[:0], 1),))
    request = RequestPlan(deletion, 1, first, first, first, second, second, second)
    left = {event: request.at(event).forget.tolist() for event in (1, 2, 3, 4, 5, 8)}
    assert left == {1: [0, 1, 2], 2: [0, 1, 2], 3: [1, 2], 4: [1, 2], 5: [2], 8: [2]}
    later = request.at(4)
    assert later.forget_until.tolist() == later.non_members_until.tolist() == [5, 9]
    assert later.at(5).forget_test.tolist() == [2]


def test_changes_are_kept_once() -> None:
    arrays = [np.array([0, 1]), np.array([0, 1]), np.array([2, 1]), np.array([0, 1])]
    changes = Changes(arrays)
    assert (len(changes), changes.kept) == (4, 3)
    assert [changes[event].tolist() for event in range(4)] == [a.tolist() for a in arrays]
    assert changes[-1].tolist() == [0, 1]
    with pytest.raises(IndexError):
        changes[4]
    with pytest.raises(ValueError, match="read-only"):
        changes[0][0] = 7


def test_of_requests_that_are_served_together_one_may_come_back_alone(tools: Any) -> None:
    plan = class_incremental.build(tools.source(), class_incremental.Config(experiences=2), 0)
    for scope, keys in (("class", plan.units[0].classes), ("task", (0, 1))):
        first, second = (RequestSpec(scope, (key,)) for key in keys[:2])  # type: ignore[arg-type]
        for number in (0, 1):
            scheduled = [Learn(0), Learn(1), first, second, Again(number)]
            looks = {}
            for wait_for in (1, 2):
                stream = assemble(plan, scheduled, Service(wait_for=wait_for), Key(0))
                looks[wait_for] = plan_evaluation(stream, EvaluationConfig(probe=0))
            assert looks[2].alive[-1].tolist() == looks[1].alive[-1].tolist(), "as if each had been served alone"
            assert not looks[2].alive[-1].all()
            assert (looks[2].since[-1] >= 0).tolist() == (looks[1].since[-1] >= 0).tolist()
