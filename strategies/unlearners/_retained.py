"""What unlearners that train on retained data share: which data that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from strategies.base import Access, Door, Learner
from streams.data import Batch, Data
from streams.randomness import Key

RetainedData = Literal["full", "memory"]


def retained_access(retained: RetainedData, forget_set: bool) -> Access:
    """Return the access to declare: all live data, or only what the learner's plugins keep (their own declaration)."""
    return Access(forget_set=forget_set, retained="full" if retained == "full" else 0)


def retained_data(retained: RetainedData, learner: Learner, door: Door) -> Data:
    """Borrow all live data, or what the learner's plugins keep."""
    return door.retained() if retained == "full" else door.fetch(learner.stored_ids())


def endless(data: Data, size: int, key: Key) -> Iterator[Batch]:
    """Yield batches without end, in an order of its own name in every pass: ``key / 0``, ``key / 1`` ..."""
    epoch = 0
    while True:
        yield from data.batches(size, key / epoch)
        epoch += 1
