"""Events share their arrays with all strategies of a run, so nobody can write into them; and say what they name."""

from __future__ import annotations

import numpy as np
import pytest

from streams.errors import StreamError
from streams.events import DeletionRequest, Experience, Request, Unit


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def both() -> DeletionRequest:
    one = Request("class", (3, 1), ids(5, 7), ids(9), 2)
    other = Request("user", (2,), ids(4, 7), ids(8, 9), 3)
    third = Request("class", (2,), ids(6), ids(), 3)
    return DeletionRequest("request-0", (one, other, third))


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Unit("task-0", (0, 1), ids(1, 2)), "test_ids"),
        (Experience("task-0", (0,), ids(1, 2)), "sample_ids"),
        (both().requests[0], "sample_ids"),
        (both().requests[0], "barred_ids"),
        (both(), "sample_ids"),
        (both(), "barred_ids"),
    ],
)
def test_ids_cannot_be_written(thing: object, name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(thing, name)[0] = 0


def test_ids_that_are_given_stay_the_givers() -> None:
    given = ids(1, 2)
    Unit("task-0", (0,), given)
    Experience("task-0", (0,), given)
    Request("sample", (1, 2), given, given, 1)
    assert given.flags.writeable


def test_requests_that_are_served_together() -> None:
    request = both()
    assert request.sample_ids.tolist() == [4, 5, 6, 7]
    assert request.barred_ids.tolist() == [8, 9]
    assert request.keys_of("class") == (1, 2, 3)
    assert request.keys_of("user") == (2,)
    assert request.keys_of("task") == ()


@pytest.mark.parametrize("requests", [(), (Request("sample", (1,), ids(), ids(1), 1),)])
def test_a_request_for_no_sample_is_refused(requests: tuple[Request, ...]) -> None:
    with pytest.raises(StreamError, match="request-0 asks for no sample"):
        DeletionRequest("request-0", requests)
