"""What can happen in a model's life: it learns an experience, or is asked to forget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from streams.errors import StreamError

Scope = Literal["sample", "class", "task", "user"]
Reason = Literal["erase", "correct", "suppress"]
Retention = Literal["permanent", "temporary"]


def read_only(ids: np.ndarray) -> np.ndarray:
    """Return a view of ids that cannot be written: all strategies of a run share them."""
    view = ids.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What accuracy is reported for: the test samples of a task, a domain or a class.

    Attributes:
        name: shown in tables, such as ``task-3``.
        classes: class ids that occur in it, ascending.
        test_ids: int64 test ids, ascending.
    """

    name: str
    classes: tuple[int, ...]
    test_ids: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "test_ids", read_only(self.test_ids))


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """A learn event.

    Attributes:
        name: stable name; keys all its randomness, so it must not depend on what else is in the stream.
        units: indices of the units it teaches.
        sample_ids: int64 training ids, ascending, unique.
        task: task label that a task-aware model sees (task-incremental), or None.
        incarnation: 0 when first learned; k when this event teaches the k-th time again what was deleted.
            Only an incarnation above 0 brings deleted ids back; otherwise they are skipped.
        retention: whether it may be asked to be forgotten (temporary) or never will be (permanent), where the stream
            says so in advance; None where it does not.
        consolidates: this teaches nothing new: what was learned as temporary becomes permanent. Strategies that know no
            such difference do nothing.
    """

    name: str
    units: tuple[int, ...]
    sample_ids: np.ndarray
    task: int | None = None
    incarnation: int = 0
    retention: Retention | None = None
    consolidates: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_ids", read_only(self.sample_ids))


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request to forget, as it arrived.

    Attributes:
        scope: what the keys name.
        keys: sample ids, class ids, unit indices or user ids.
        sample_ids: int64 training ids it stands for that are learned and live, ascending.
        barred_ids: int64 training ids it stands for that no experience has brought yet: they must never be learned.
        received: number of learn events that had passed when it arrived.
    """

    scope: Scope
    keys: tuple[int, ...]
    sample_ids: np.ndarray
    barred_ids: np.ndarray
    received: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_ids", read_only(self.sample_ids))
        object.__setattr__(self, "barred_ids", read_only(self.barred_ids))


@dataclass(frozen=True, slots=True, eq=False)
class DeletionRequest:
    """A forget event: one or more requests that are served together.

    Attributes:
        name: stable name, such as ``request-4``.
        requests: at least one; a lazy server gathers several.
        reason: erase (privacy), correct (bad data), suppress (a concept must go); of several, see
            `streams.plan.STRICTEST`.
        exact: whether one of the requesters demands exactness.
    """

    name: str
    requests: tuple[Request, ...]
    reason: Reason = "erase"
    exact: bool = False

    def __post_init__(self) -> None:
        if not self.requests or not len(self.sample_ids):
            raise StreamError(f"{self.name} asks for no sample at all.")

    @property
    def sample_ids(self) -> np.ndarray:
        """Union of what the requests name, ascending."""
        return read_only(np.unique(np.concatenate([r.sample_ids for r in self.requests])))

    @property
    def barred_ids(self) -> np.ndarray:
        """Union of what must never be learned from now on, ascending."""
        return read_only(np.unique(np.concatenate([r.barred_ids for r in self.requests])))

    def keys_of(self, scope: Scope) -> tuple[int, ...]:
        """Return all keys that were named with one scope, ascending."""
        return tuple(sorted({k for r in self.requests if r.scope == scope for k in r.keys}))


Event = Experience | DeletionRequest
