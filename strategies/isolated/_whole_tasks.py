"""What strategies share that forget whole tasks and nothing finer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

import numpy as np

from streams.errors import RequestError
from streams.events import DeletionRequest

Finer = Literal["refuse", "coarsen"]
"""What becomes of a request for a part of a task: it is refused, or all of the task is given up."""


class Held(Protocol):
    """A task: its samples, and the experience that it was learned in."""

    @property
    def ids(self) -> np.ndarray:
        """Samples, int64."""

    @property
    def experience(self) -> str:
        """Name of the experience."""


T = TypeVar("T", bound=Held)


def named_tasks(
    request: DeletionRequest, tasks: Iterable[T], finer: Finer, strategy: str
) -> tuple[list[T], np.ndarray]:
    """Return the tasks that a request touches, and the samples that are given up with them unasked, int64.

    Raises:
        RequestError: only a part of a task is named, and `finer` is refuse.
    """
    named = [t for t in tasks if np.isin(t.ids, request.sample_ids).any()]
    given_up = [t.ids[~np.isin(t.ids, request.sample_ids)] for t in named]
    for task, unasked in zip(named, given_up, strict=True):
        if len(unasked) and finer == "refuse":
            raise RequestError(
                f"{request.name} names {len(task.ids) - len(unasked)} of the {len(task.ids)} samples of "
                f"{task.experience}; {strategy} forgets whole tasks. Set finer: coarsen to give all of it up."
            )
    return named, np.concatenate([np.array([], dtype=np.int64), *given_up])
