from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streams.errors import AccessError, LedgerError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Access, Ledger, Life

NONE = np.array([], dtype=np.int64)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def experience(name: str, *values: int, incarnation: int = 0) -> Experience:
    return Experience(name, (0,), ids(*values), None, incarnation)


def request(name: str, *values: int, barred: np.ndarray = NONE) -> DeletionRequest:
    return DeletionRequest(name, (Request("sample", values, ids(*values), barred, 0),))


@pytest.fixture
def ledger(tools: Any) -> Ledger:
    return Ledger(tools.source(num_classes=2, per_class=6, test_per_class=2))  # train rows 0-5 and 8-13


def test_a_door_tells_who_is_live_to_anybody_while_it_is_open(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.delete(request("r", 1))
    door = ledger.door(Access(), NONE)
    assert door.live_ids.tolist() == [0, 2]
    assert door.num_read == 0
    door.close()
    with pytest.raises(LedgerError, match="the event is over"):
        _ = door.live_ids


def test_life_cycle(ledger: Ledger) -> None:
    assert ledger.life.tolist() == [Life.UNSEEN] * 16
    assert ledger.admit(experience("a", 0, 1, 2)).sample_ids.tolist() == [0, 1, 2]
    ledger.delete(request("r", 1))
    assert ledger.life[:4].tolist() == [Life.LEARNED, Life.DELETED, Life.LEARNED, Life.UNSEEN]
    assert ledger.live_ids.tolist() == [0, 2]
    assert ledger.deleted_ids.tolist() == [1]


def test_a_repeated_experience_skips_what_is_deleted(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.delete(request("r", 1))
    assert ledger.admit(experience("a-again", 0, 1, 3)).sample_ids.tolist() == [0, 3]
    assert ledger.deleted_ids.tolist() == [1]


def test_an_incarnation_brings_deleted_samples_back(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.delete(request("r", 0, 1))
    again = ledger.admit(experience("again", 1, 2, incarnation=1))
    assert again.sample_ids.tolist() == [1, 2]
    assert ledger.live_ids.tolist() == [1, 2]
    assert ledger.incarnation[:3].tolist() == [0, 1, 0]  # only what was dead is born again
    ledger.delete(request("r2", 1))
    ledger.admit(experience("again", 1, incarnation=2))
    assert ledger.incarnation[1] == 2


def test_deleting_what_is_not_live_is_refused(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1))
    with pytest.raises(LedgerError, match="sample 2 cannot be deleted, it is unseen"):
        ledger.delete(request("r", 0, 2))
    assert ledger.live_ids.tolist() == [0, 1]  # nothing of a refused request happens
    ledger.delete(request("r", 0))
    with pytest.raises(LedgerError, match="it is deleted"):
        ledger.delete(request("r", 0))


def test_barred_ids_are_never_learned(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1))
    ledger.delete(request("r", 0, barred=ids(4, 5)))
    assert ledger.admit(experience("b", 3, 4, 5)).sample_ids.tolist() == [3]
    assert len(ledger.admit(experience("c", 4, 5)).sample_ids) == 0
    assert [e.name for e in ledger.history()] == ["a", "b"]


def test_history_is_the_life_without_the_deleted(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.admit(experience("b", 1, 3))
    ledger.delete(request("r", 1, 3))
    assert [(e.name, e.sample_ids.tolist()) for e in ledger.history()] == [("a", [0, 2])]
    ledger.admit(experience("again", 1, 3, incarnation=1))
    assert [(e.name, e.incarnation, e.sample_ids.tolist()) for e in ledger.history()] == [
        ("a", 0, [0, 2]),
        ("again", 1, [1, 3]),
    ]


def test_what_became_permanent_is_not_learned_twice(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.admit(replace(experience("a-consolidated", 0, 1, 2), consolidates=True))
    ledger.admit(experience("b", 3))
    assert [e.name for e in ledger.history()] == ["a", "b"]


def test_the_door_lends_the_right_rows(ledger: Ledger, tools: Any) -> None:
    ledger.admit(experience("a", 0, 1, 8))
    batch = ledger.door(Access(), ids(0, 1, 8)).fetch(ids(1, 8)).all()
    source = tools.source(num_classes=2, per_class=6, test_per_class=2)
    assert batch.ids.tolist() == [1, 8]
    assert batch.x.equal(source.x[[1, 8]])
    assert batch.y.tolist() == [0, 1]
    assert batch.task is None


def test_the_door_refuses_the_dead_and_the_unseen(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1))
    ledger.delete(request("r", 1))
    door = ledger.door(Access(retained="full"), NONE)
    with pytest.raises(LedgerError, match="Sample 1 is deleted; 1 of the 2"):
        door.fetch(ids(0, 1))
    with pytest.raises(LedgerError, match="Sample 3 is unseen"):
        door.fetch(ids(3))
    with pytest.raises(LedgerError, match="Sample 6 is unseen"):  # a test row
        door.fetch(ids(6))


def test_access_is_counted_over_the_whole_event(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2, 3))
    ledger.admit(experience("b", 4, 5))
    door = ledger.door(Access(retained=2), ids(4, 5))
    door.fetch(ids(0, 4, 5))
    door.fetch(ids(0, 1))  # 0 was read before: two distinct earlier samples so far
    assert door.num_read == 4
    with pytest.raises(AccessError, match=r"buffer\(2\).*reads 3 earlier samples"):
        door.fetch(ids(2))


def test_no_access_means_only_the_experience(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1))
    ledger.admit(experience("b", 4))
    door = ledger.door(Access(), ids(4))
    door.fetch(ids(4))
    with pytest.raises(AccessError, match="retain: nothing"):
        door.fetch(ids(0))
    with pytest.raises(AccessError):
        door.retained()
    with pytest.raises(AccessError, match="learning again needs"):
        door.history()
    with pytest.raises(AccessError, match="no request is being served"):
        ledger.door(Access(forget_set=True), NONE).forget_set()


def test_the_forget_set_opens_only_for_its_request_and_only_if_declared(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.delete(request("r", 1))
    with pytest.raises(AccessError, match="not open"):
        ledger.door(Access(retained="full"), NONE, ids(1)).forget_set()
    door = ledger.door(Access(forget_set=True), NONE, ids(1))
    assert door.forget_set().ids.tolist() == [1]
    assert door.num_read == 1
    with pytest.raises(LedgerError):
        door.fetch(ids(1))  # not through the other door


def test_the_forget_set_does_not_count_against_the_buffer(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2, 3, 4))
    ledger.delete(request("r", 0, 1, 2))
    door = ledger.door(Access(forget_set=True, retained=2), NONE, ids(0, 1, 2))
    assert len(door.forget_set()) == 3
    door.fetch(ids(3, 4))
    assert door.num_read == 5


def test_views_close_with_the_event(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.delete(request("r", 1))
    door = ledger.door(Access(True, "full"), NONE, ids(1))
    views = [door.retained(), door.forget_set(), door.fetch(ids(0))]
    for view in views:
        view.all(), view.targets(), view.batches(2)
    door.close()
    for view in views:
        for read in (view.all, view.targets, lambda v=view: v.batches(2)):
            with pytest.raises(LedgerError, match="the event is over"):
                read()
        assert len(view) == len(view.ids)  # ids stay readable


def test_retained_is_everything_live(ledger: Ledger) -> None:
    ledger.admit(experience("a", 0, 1, 2))
    ledger.admit(experience("b", 9, 10))
    ledger.delete(request("r", 1, 9))
    assert ledger.door(Access(retained="full"), NONE).retained().ids.tolist() == [0, 2, 10]


def test_task_labels_come_with_the_rows(tools: Any) -> None:
    source = tools.source(num_classes=2)
    ledger = Ledger(source, source.class_ids + 5)
    ledger.admit(experience("a", 0, 8))
    task = ledger.door(Access(), ids(0, 8)).fetch(ids(0, 8)).all().task
    assert task is not None
    assert task.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (Access(), Access(), Access()),
        (Access(retained=3), Access(retained=5), Access(retained=5)),
        (Access(True, 3), Access(False, "full"), Access(True, "full")),
    ],
)
def test_access_union(a: Access, b: Access, both: Access) -> None:
    assert a | b == both
    assert b | a == both


def test_access_labels() -> None:
    assert Access().label() == "retain: nothing"
    assert Access(True, 200).label() == "retain: buffer(200), forget set"
    assert Access(False, "full").label() == "retain: full"


def test_batches_cover_everything_once_and_keep_the_short_last_one(ledger: Ledger) -> None:
    from streams.randomness import Key

    ledger.admit(experience("a", 0, 1, 2, 3, 4))
    view = ledger.door(Access(), ids(0, 1, 2, 3, 4)).fetch(ids(0, 1, 2, 3, 4))
    assert [b.ids.tolist() for b in view.batches(2)] == [[0, 1], [2, 3], [4]]
    shuffled = [i for b in view.batches(2, Key(0) / "k") for i in b.ids.tolist()]
    assert sorted(shuffled) == [0, 1, 2, 3, 4]
    assert shuffled == view.ids[(Key(0) / "k").order(view.ids)].tolist()
    assert ledger.lend(NONE).batches(2) == []
