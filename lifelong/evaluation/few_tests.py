"""A limit on test samples: the same stream, with fewer of them in every unit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streams.randomness import Key
from streams.stream import Stream


def with_few_tests(stream: Stream, most: int | None) -> Stream:
    """Return a stream in which every unit has at most `most` test samples, drawn by name; None limits nothing.

    They are the same ones for every seed, and a larger limit keeps what a smaller one keeps.
    """
    if most is None:
        return stream
    units = tuple(replace(u, test_ids=_drawn(u.test_ids, most)) for u in stream.units)
    return replace(stream, units=units)


def _drawn(ids: np.ndarray, most: int) -> np.ndarray:
    return np.sort(ids[(Key(0) / "tests").order(ids)[:most]])
