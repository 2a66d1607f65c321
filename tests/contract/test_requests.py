"""Requests that cannot be served are refused before any strategy hears of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streams.config import parse
from streams.errors import LedgerError, StreamError
from streams.events import DeletionRequest, Request
from streams.plan import Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.schedules import explicit


def test_an_empty_request_is_refused() -> None:
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(StreamError, match="asks for no sample"):
        DeletionRequest("request-0", ())
    with pytest.raises(StreamError, match="asks for no sample"):
        DeletionRequest("request-0", (Request("sample", (), nothing, nothing, 0),))


def test_a_repeated_request_is_refused(kit: Any) -> None:
    stream = kit.world("class-incremental").stream
    request = stream.requests[0]
    with pytest.raises(StreamError, match="already|deleted"):
        replace(stream, events=(stream.events[0], request, replace(request, name="request-9")))
    with pytest.raises(StreamError, match="twice"):
        replace(stream, events=(*stream.events, request))


def test_a_request_for_what_was_never_learned_is_refused(kit: Any) -> None:
    stream = kit.world("class-incremental").stream
    with pytest.raises(StreamError, match="unseen"):
        replace(stream, events=(stream.experiences[1], stream.requests[0]))


def test_the_ledger_refuses_by_itself(kit: Any) -> None:
    world = kit.world("class-incremental")
    ledger, (learn, request, *_) = world.ledger(), world.stream.events
    with pytest.raises(LedgerError, match="unseen"):
        ledger.delete(request)
    ledger.admit(learn)
    ledger.delete(request)
    with pytest.raises(LedgerError, match="deleted"):
        ledger.delete(request)
    door = ledger.door(kit.full, learn.sample_ids)
    with pytest.raises(LedgerError, match="deleted"):
        door.fetch(request.sample_ids[:1])
    with pytest.raises(LedgerError, match="unseen"):
        door.fetch(world.stream.experiences[1].sample_ids[:1])


def stream_of(kit: Any, requests: list[dict[str, Any]], wait_for: int = 1) -> Any:
    source = kit.world("class-incremental").stream.source
    plan = class_incremental.build(source, class_incremental.Config(experiences=5), 0)
    scheduled = explicit.place(plan, parse(explicit.Config, {"requests": requests}), Key(0))
    return assemble(plan, scheduled, Service(wait_for), Key(0))


@pytest.mark.parametrize("wait_for", [1, 2])
def test_learning_again_leaves_out_what_someone_else_asked_to_forget(kit: Any, wait_for: int) -> None:
    """A class returns, but not the samples of a user who wanted to be forgotten in the meantime."""
    of_class = {"after": 2, "scope": "class", "keys": [1], "again_after": 4}
    of_user = {"after": 2 if wait_for == 2 else 3, "scope": "user", "keys": [2]}
    stream = stream_of(kit, [of_class, of_user], wait_for)
    source = stream.source
    again = next(e for e in stream.experiences if e.incarnation)
    mine = (source.class_ids == 1) & (source.user_ids == 2) & ~source.is_test
    expected = np.flatnonzero((source.class_ids == 1) & (source.user_ids != 2) & ~source.is_test)
    assert mine.any()
    assert again.sample_ids.tolist() == expected.tolist()


def test_nothing_left_to_learn_again_is_refused(kit: Any) -> None:
    again = {"after": 2, "scope": "class", "keys": [1], "again_after": 4}
    with pytest.raises(StreamError, match="other requests name all"):
        stream_of(kit, [again, {"after": 3, "scope": "task", "keys": [0]}])
