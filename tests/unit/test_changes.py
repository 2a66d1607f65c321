"""Arrays that stand after every event are those that were given, however they are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.evaluation.changes import Changes


@given(st.lists(st.lists(st.integers(0, 1), max_size=2), max_size=8))
def test_every_event_has_its_own_array(given_: list[list[int]]) -> None:
    arrays = [np.array(values, dtype=np.int64) for values in given_]
    changes = Changes(iter(arrays))
    for array in arrays:
        assert array.flags.writeable, "they stay the caller's"
        array += 7
    assert len(changes) == len(given_)
    for event in range(-len(given_), len(given_)):
        assert changes[event].tolist() == given_[event]
        with pytest.raises(ValueError, match="read-only"):
            changes[event][...] = 1
    for beyond in (len(given_), -len(given_) - 1):
        with pytest.raises(IndexError, match=f"event {beyond} of {len(given_)}"):
            changes[beyond]
    assert changes.kept == sum(not e or given_[e] != given_[e - 1] for e in range(len(given_)))
