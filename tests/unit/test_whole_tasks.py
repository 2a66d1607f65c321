"""Which tasks a request touches, what is given up with them, and what is said where that is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from strategies.isolated._whole_tasks import named_tasks
from streams.errors import RequestError
from streams.events import DeletionRequest, Request


@dataclass
class Task:
    ids: np.ndarray
    experience: str


TASKS = [Task(np.arange(10 * n, 10 * n + 8), f"task-{n}") for n in range(4)]


def request(*ids: int) -> DeletionRequest:
    named = np.array(ids)
    return DeletionRequest("request-7", (Request("sample", ids, named, named[:0], 1),))


def test_what_is_given_up_is_what_nobody_named_of_the_tasks_that_are_touched() -> None:
    some = request(1, 2, *range(10, 18), 37)
    named, given_up = named_tasks(some, TASKS, "coarsen", "mine")
    assert [t.experience for t in named] == ["task-0", "task-1", "task-3"]
    assert sorted(given_up.tolist()) == [0, *range(3, 8), *range(30, 37)]


def test_whole_tasks_give_nothing_else_up() -> None:
    named, given_up = named_tasks(request(*range(10, 18)), TASKS, "refuse", "mine")
    assert ([t.experience for t in named], given_up.tolist(), given_up.dtype) == (["task-1"], [], np.int64)
    assert named_tasks(request(99), TASKS, "refuse", "mine")[0] == []


def test_a_part_is_refused_with_its_size() -> None:
    with pytest.raises(RequestError, match=r"^request-7 names 3 of the 8 samples of task-1; mine forgets whole tasks"):
        named_tasks(request(*range(8), 10, 11, 12), TASKS, "refuse", "mine")
