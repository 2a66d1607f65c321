from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import LedgerError, StreamError
from streams.events import DeletionRequest, Experience, Request, Unit
from streams.ledger import Ledger
from streams.plan import Again, Learn, Plan, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.source import Source
from streams.stream import Stream, event_digest
from streams.timeline import admitted, surviving

KEY = Key(0) / "requests"


def make_plan(tools: Any, **options: int) -> Plan:
    """Four classes in two experiences: rows 0-5, 8-13 | 16-21, 24-29."""
    return class_incremental.build(tools.source(**options), class_incremental.Config(experiences=2), 0)


def play(plan: Plan, *scheduled: Scheduled, service: Service | None = None) -> Stream:
    return assemble(plan, scheduled, service or Service(), KEY)


def describe(stream: Stream) -> list[tuple[str, list[int]]]:
    return [(e.name, e.sample_ids.tolist()) for e in stream.events]


def test_named_samples_become_a_request(tools: Any) -> None:
    stream = play(make_plan(tools), Learn(0), RequestSpec("sample", (8, 3)), Learn(1))
    assert [n for n, _ in describe(stream)] == ["task-0", "request-0", "task-1"]
    (request,) = stream.requests
    assert request.sample_ids.tolist() == [3, 8]
    assert request.keys_of("sample") == (3, 8)
    assert request.keys_of("class") == ()
    assert len(request.barred_ids) == 0
    assert request.requests[0].received == 1


@pytest.mark.parametrize(
    ("scope", "key", "expected"),
    [("class", 1, [8, 9, 10, 11, 12, 13]), ("user", 0, [0, 3, 9, 12]), ("task", 0, [*range(6), *range(8, 14)])],
)
def test_scopes_name_what_is_live(tools: Any, scope: Any, key: int, expected: list[int]) -> None:
    stream = play(make_plan(tools), Learn(0), RequestSpec(scope, (key,)), Learn(1))
    assert stream.requests[0].sample_ids.tolist() == expected


def test_a_user_who_left_is_barred_from_later_experiences(tools: Any) -> None:
    plan = make_plan(tools)
    stream = play(plan, Learn(0), RequestSpec("user", (0,)), Learn(1))
    barred = stream.requests[0].barred_ids.tolist()
    assert barred == [18, 21, 24, 27]
    ledger = Ledger(plan.source)
    for event in stream.events:
        if isinstance(event, Experience):
            last = ledger.admit(event)
        else:
            ledger.delete(event)
    assert not set(barred) & set(last.sample_ids.tolist())
    assert surviving(stream.events)[1].sample_ids.tolist() == last.sample_ids.tolist()


def test_errors_say_what_is_wrong(tools: Any) -> None:
    plan = make_plan(tools)
    one, two = Learn(0), Learn(1)
    for scheduled, message in [
        ((one, RequestSpec("sample", (16,)), two), "sample 16, which is never learned at that moment"),
        ((one, RequestSpec("sample", (3,)), RequestSpec("sample", (3,)), two), "sample 3, which is already deleted"),
        ((one, RequestSpec("sample", (6,)), two), "sample 6, which is a test sample"),
        ((one, RequestSpec("sample", (99,)), two), "sample 99; 'toy' has samples 0 to 31"),
        ((one, RequestSpec("sample", (-1,)), two), "sample -1"),
        ((one, RequestSpec("class", (2,)), two), "class c2 after 1 experiences: its data is never learned"),
        ((one, RequestSpec("class", (0,)), RequestSpec("class", (0,)), two), "its data is already deleted"),
        ((one, RequestSpec("task", (2,)), two), "task 2; there are 0 to 1"),
        ((one, RequestSpec("user", (7,)), two), "user 7 after 1 experiences: its data is never learned"),
        ((RequestSpec("sample", None, 1), one, two), "only 0 are live"),
        ((one, RequestSpec("sample", None, 13), two), "wants 13 sample"),
        ((one, RequestSpec("sample", None, 1, age=1), two), "only 0 are live and of the age it asks for"),
        ((one, Again(0), two), "request 0 has not been served"),
        ((), "no experience"),
        ((one, one), "occurs twice"),
    ]:
        with pytest.raises(StreamError, match=message):
            play(plan, *scheduled)


def test_drawn_requests_depend_on_their_name_alone(tools: Any) -> None:
    plan = make_plan(tools)
    short = play(plan, Learn(0), RequestSpec("sample", None, 3), Learn(1))
    long = play(plan, Learn(0), RequestSpec("sample", None, 3), Learn(1), RequestSpec("user", None, 1))
    assert short.requests[0].sample_ids.tolist() == long.requests[0].sample_ids.tolist()
    other = assemble(plan, [Learn(0), RequestSpec("sample", None, 3), Learn(1)], Service(), Key(1) / "requests")
    assert short.requests[0].sample_ids.tolist() != other.requests[0].sample_ids.tolist()


def test_age_draws_from_old_data_only(tools: Any) -> None:
    stream = play(make_plan(tools), Learn(0), Learn(1), RequestSpec("sample", None, 12, age=1))
    assert stream.requests[0].sample_ids.tolist() == [*range(6), *range(8, 14)]


def test_a_lazy_server_gathers_asks_until_there_are_enough(tools: Any) -> None:
    plan = make_plan(tools)
    scheduled = [
        Learn(0),
        RequestSpec("sample", (0,)),
        RequestSpec("sample", (1, 2)),
        Learn(1),
        RequestSpec("sample", (16,)),
    ]
    stream = play(plan, *scheduled, service=Service(wait_for=2))
    assert describe(stream)[1] == ("request-0", [0, 1, 2])
    assert describe(stream)[3] == ("request-1", [16])  # the end of the stream serves what is left
    stream = play(plan, *scheduled, service=Service(wait_for=3))
    assert [n for n, _ in describe(stream)] == ["task-0", "task-1", "request-0"]
    assert [a.received for a in stream.requests[0].requests] == [1, 1, 2]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("correct", "erase", "erase"), ("erase", "correct", "erase"), ("correct", "suppress", "suppress")],
)
def test_what_is_served_together_has_the_reason_that_asks_for_most(
    first: Any, second: Any, expected: str, tools: Any
) -> None:
    """Whether anything is still known of erased data is measured, whatever is corrected beside it."""
    asked = [RequestSpec("sample", (n,), reason=reason) for n, reason in enumerate((first, second))]
    stream = play(make_plan(tools), Learn(0), *asked, service=Service(wait_for=2))
    assert stream.requests[0].reason == expected


def test_a_deadline_serves_early(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("sample", (0,)), Learn(1), RequestSpec("sample", (16,))]
    stream = play(make_plan(tools), *scheduled, service=Service(wait_for=9, deadline=1))
    assert [n for n, _ in describe(stream)] == ["task-0", "task-1", "request-0", "request-1"]
    assert stream.requests[0].sample_ids.tolist() == [0]


def test_data_that_arrives_while_an_ask_waits_is_covered(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("user", (0,)), Learn(1)]
    stream = play(make_plan(tools), *scheduled, service=Service(wait_for=9))
    assert stream.requests[0].sample_ids.tolist() == [0, 3, 9, 12, 18, 21, 24, 27]
    assert len(stream.requests[0].barred_ids) == 0


def test_pending_data_is_not_drawn_twice(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("sample", None, 6), RequestSpec("sample", None, 6), Learn(1)]
    stream = play(make_plan(tools), *scheduled, service=Service(wait_for=2))
    assert len(stream.requests[0].sample_ids) == 12


def test_what_a_pending_request_will_cover_is_not_drawn_either(tools: Any) -> None:
    """User 0 has samples in both experiences; the request covers those of the second as they arrive while it waits."""
    plan = make_plan(tools)
    theirs = np.flatnonzero((plan.source.user_ids == 0) & ~plan.source.is_test)
    asked = RequestSpec("sample", None, 24 - len(theirs))
    stream = play(plan, Learn(0), RequestSpec("user", (0,)), Learn(1), asked, service=Service(wait_for=2))
    first, second = stream.requests[0].requests
    assert first.sample_ids.tolist() == theirs.tolist()
    assert not np.isin(second.sample_ids, theirs).any()


def test_again_teaches_exactly_what_was_deleted(tools: Any) -> None:
    stream = play(
        make_plan(tools), Learn(0), RequestSpec("class", (1,)), Learn(1), Again(0), RequestSpec("class", (1,)), Again(1)
    )
    again = stream.events[3]
    assert isinstance(again, Experience)
    assert (again.name, again.incarnation, again.units) == ("wish-0-again", 1, (0,))
    assert again.sample_ids.tolist() == [8, 9, 10, 11, 12, 13]
    last = stream.events[5]
    assert isinstance(last, Experience)
    assert (last.name, last.incarnation) == ("wish-1-again", 2)


def test_what_others_asked_for_in_the_same_request_is_not_taught_again(tools: Any) -> None:
    scheduled = [Learn(0), RequestSpec("sample", (0, 1, 2)), RequestSpec("sample", (2, 3)), Again(0), Learn(1)]
    stream = play(make_plan(tools), *scheduled, service=Service(wait_for=2))
    assert stream.requests[0].sample_ids.tolist() == [0, 1, 2, 3]
    assert stream.events[2].sample_ids.tolist() == [0, 1]


def test_surviving_takes_out_every_forgotten_incarnation(tools: Any) -> None:
    stream = play(
        make_plan(tools), Learn(0), RequestSpec("class", (1,)), Learn(1), Again(0), RequestSpec("sample", (8,))
    )
    assert [(e.name, e.sample_ids.tolist()) for e in surviving(stream.events)] == [
        ("task-0", [0, 1, 2, 3, 4, 5]),
        ("task-1", [*range(16, 22), *range(24, 30)]),
        ("wish-0-again", [9, 10, 11, 12, 13]),
    ]
    untouched = surviving(stream.events)[1]
    assert untouched is stream.events[2]


def test_surviving_of_a_prefix_differs(tools: Any) -> None:
    stream = play(make_plan(tools), Learn(0), RequestSpec("task", (0,)), Learn(1), Again(0))
    assert [e.name for e in surviving(stream.events[:1])] == ["task-0"]
    assert surviving(stream.events[:2]) == ()
    assert [e.name for e in surviving(stream.events)] == ["task-1", "wish-0-again"]


def test_admitted_reduces_repeated_experiences() -> None:
    def learn(name: str, *values: int, incarnation: int = 0) -> Experience:
        return Experience(name, (0,), np.array(values), None, incarnation)

    def forget(name: str, *values: int, barred: tuple[int, ...] = ()) -> DeletionRequest:
        return DeletionRequest(
            name, (Request("sample", values, np.array(values), np.array(barred, dtype=np.int64), 0),)
        )

    events = [
        learn("a", 0, 1),
        forget("r", 1, barred=(3,)),
        learn("b", 1, 2),
        learn("c", 1, 3),
        learn("d", 1, incarnation=1),
        learn("e", 1, 2),
    ]
    result = [(e.name, e.sample_ids.tolist()) for e in admitted(events)]
    assert result == [("a", [0, 1]), ("r", [1]), ("b", [2]), ("d", [1]), ("e", [1, 2])]
    assert [(e.name, e.sample_ids.tolist()) for e in surviving(events)] == [
        ("a", [0]),
        ("b", [2]),
        ("d", [1]),
        ("e", [1, 2]),
    ]


def test_event_digest_sees_every_field() -> None:
    learn = Experience("e", (0,), np.array([1, 2]))
    changed = [
        replace(learn, name="f"),
        replace(learn, units=(1,)),
        replace(learn, sample_ids=np.array([1, 3])),
        replace(learn, task=0),
        replace(learn, incarnation=1),
    ]
    request = Request("sample", (1,), np.array([1]), np.array([], dtype=np.int64), 1)
    forget = DeletionRequest("r", (request,))
    changed += [
        replace(forget, name="s"),
        replace(forget, reason="correct"),
        replace(forget, exact=True),
        replace(forget, requests=(replace(request, scope="user"),)),
        replace(forget, requests=(replace(request, keys=(2,)),)),
        replace(forget, requests=(replace(request, sample_ids=np.array([2])),)),
        replace(forget, requests=(replace(request, barred_ids=np.array([2])),)),
        replace(forget, requests=(replace(request, received=2),)),
        replace(forget, requests=(request, request)),
    ]
    digests = [event_digest(e) for e in (learn, forget, *changed)]
    assert len(set(digests)) == len(digests)
    assert event_digest(Experience("e", (0,), np.array([1, 2]))) == event_digest(learn)


def test_stream_digest_sees_order_units_and_task_labels(tools: Any) -> None:
    plan = make_plan(tools)
    stream = play(plan, Learn(0), Learn(1))
    units = (*plan.units[:1], Unit("renamed", plan.units[1].classes, plan.units[1].test_ids))
    fewer = (*plan.units[:1], Unit("task-1", plan.units[1].classes, plan.units[1].test_ids[1:]))
    others = [
        replace(stream, events=stream.events[::-1]),
        replace(stream, events=stream.events[:1]),
        replace(stream, units=units),
        replace(stream, units=fewer),
        replace(stream, task_of=np.zeros(len(plan.source), dtype=np.int64)),
    ]
    digests = {s.digest() for s in (stream, *others)}
    assert len(digests) == 6
    assert play(make_plan(tools), Learn(0), Learn(1)).digest() == stream.digest()


def test_a_request_for_nothing_cannot_be_made() -> None:
    with pytest.raises(StreamError, match="no sample at all"):
        DeletionRequest("r", ())


@pytest.mark.parametrize(
    ("ids", "message"),
    [([1, 0], "ascending"), ([0, 0], "ascending"), ([6], "training ids"), ([40], "training ids"), ([], "one or more")],
)
def test_impossible_experiences_are_refused(tools: Any, ids: list[int], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        Stream(tools.source(), (), (Experience("e", (0,), np.array(ids, dtype=np.int64)),))


def test_descriptions_are_plain_values(tools: Any) -> None:
    import json

    stream = play(make_plan(tools), Learn(0), RequestSpec("class", (1,), exact=True), Learn(1))
    records = json.loads(json.dumps(stream.describe()))
    assert [(r["event"], r["kind"], r["samples"]) for r in records] == [
        (0, "learn", 12),
        (1, "forget", 6),
        (2, "learn", 12),
    ]
    assert records[1]["requests"] == [{"scope": "class", "keys": [1], "samples": 6, "received": 1, "names": ["c1"]}]


@st.composite
def scheduled(draw: st.DrawFn) -> list[Scheduled]:
    """Five experiences with drawn requests between them; some requests may be impossible."""
    result: list[Scheduled] = []
    for index in range(5):
        result.append(Learn(index))
        for _ in range(draw(st.integers(0, 2))):
            scope = draw(st.sampled_from(["sample", "class", "user", "task"]))
            result.append(RequestSpec(scope, None, draw(st.integers(1, 3)) if scope == "sample" else 1))
    return result


@settings(max_examples=60, deadline=None)
@given(scheduled=scheduled(), wait=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_any_stream_keeps_the_ledger_consistent(tools: Any, scheduled: list[Scheduled], wait: int, seed: int) -> None:
    source: Source = tools.source(num_classes=5, per_class=7, num_users=4)
    plan = class_incremental.build(source, class_incremental.Config(experiences=5), 0)
    try:
        stream = assemble(plan, scheduled, Service(wait), Key(seed))
    except StreamError as error:
        assert "live" in str(error)  # noqa: PT017 (only running out of data is allowed)
        return
    ledger = Ledger(source)
    learned: set[int] = set()
    deleted: set[int] = set()
    for event in stream.events:
        ids = set(event.sample_ids.tolist())
        if isinstance(event, Experience):
            live = set(ledger.admit(event).sample_ids.tolist())
            assert live == ids - deleted
            learned |= live
        else:
            assert ids <= learned - deleted  # no deletion before learning, none twice
            ledger.delete(event)
            deleted |= ids | set(event.barred_ids.tolist())
    assert set(ledger.live_ids.tolist()) == learned - deleted
    assert set(ledger.deleted_ids.tolist()) == deleted
    assert not learned & set(source.test_ids.tolist())
    # Every training id is live, deleted, or was never brought.
    everything = learned | deleted | set(np.flatnonzero((ledger.life == 0) & ~source.is_test).tolist())
    assert everything == set(source.train_ids.tolist())
    kept = [i for e in surviving(stream.events) for i in e.sample_ids.tolist()]
    assert sorted(kept) == sorted(learned - deleted)  # class-incremental: each id in exactly one experience
    assert [e.name for e in ledger.history()] == [e.name for e in surviving(stream.events)]


def test_a_ledger_error_names_the_request(tools: Any) -> None:
    with pytest.raises(LedgerError, match="request-9"):
        Ledger(tools.source()).delete(
            DeletionRequest("request-9", (Request("sample", (0,), np.array([0]), np.array([], dtype=np.int64), 0),))
        )
