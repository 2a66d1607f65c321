"""What unlearners that train on retained data share: which data that is."""

from __future__ import annotations

from typing import Literal

from strategies.base import Access, Door, Learner
from streams.data import Data

RetainedData = Literal["full", "memory"]


def retained_access(retained: RetainedData, forget_set: bool) -> Access:
    """Return the access to declare: all live data, or only what the learner's plugins keep (their own declaration)."""
    return Access(forget_set=forget_set, retained="full" if retained == "full" else 0)


def retained_data(retained: RetainedData, learner: Learner, door: Door) -> Data:
    """Borrow all live data, or what the learner's plugins keep."""
    return door.retained() if retained == "full" else door.fetch(learner.stored_ids())
