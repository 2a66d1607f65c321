"""An array that stands after every event of a stream, kept once for all events between two changes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np


class Changes:
    """What holds after each event; ``changes[event]`` is the array, which cannot be written."""

    def __init__(self, arrays: Iterable[np.ndarray]) -> None:
        """Take the array after every event, in order; one that equals the one before it is not kept.

        >>> changes = Changes(np.array(values) for values in ([1, 2], [1, 2], [3, 4]))
        >>> changes[1].tolist(), changes[-1].tolist(), len(changes), changes.kept
        ([1, 2], [3, 4], 3, 2)
        """
        self._starts: list[int] = []
        self._arrays: list[np.ndarray] = []
        self._length = 0
        for event, array in enumerate(arrays):
            if not event or not np.array_equal(array, self._arrays[-1]):
                kept = array.copy()
                kept.flags.writeable = False
                self._starts.append(event)
                self._arrays.append(kept)
            self._length = event + 1

    def __len__(self) -> int:
        """Return the number of events."""
        return self._length

    @property
    def kept(self) -> int:
        """How many arrays are in memory."""
        return len(self._arrays)

    def __getitem__(self, event: int) -> np.ndarray:
        """Return the array after an event; the last one has number -1, too."""
        if not -self._length <= event < self._length:
            raise IndexError(f"event {event} of {self._length}")
        return self._arrays[bisect_right(self._starts, event % self._length) - 1]
