"""What learning again needs to know of every sample, noted event by event: nothing looks back at all earlier ones."""

from __future__ import annotations

import numpy as np

from streams.events import Experience

_History = tuple[frozenset[int], frozenset[int | None]]
"""Units and task labels of all experiences that taught a sample."""


class Returns:
    """Who taught each sample so far, and who asked for it to be forgotten."""

    def __init__(self, num_samples: int) -> None:
        """Know of no event yet."""
        nothing: _History = (frozenset(), frozenset())
        self._histories, self._number_of = [nothing], {nothing: 0}
        self._history = np.zeros(num_samples, dtype=np.int32)
        self._incarnation = np.zeros(num_samples, dtype=np.int32)
        # Of the last request that named each sample: its number, and in which place it was served; and the place of the
        # last one before that.
        self._last = np.full(num_samples, -1)
        self._place = np.full(num_samples, -1)
        self._place_before = np.full(num_samples, -1)

    def learned(self, experience: Experience) -> None:
        """Note what an experience teaches, of the samples that it holds."""
        ids = experience.sample_ids
        old, which = np.unique(self._history[ids], return_inverse=True)
        new = np.array([self._with(number, experience) for number in old.tolist()], dtype=np.int32)
        self._history[ids] = new[which]
        self._incarnation[ids] = np.maximum(self._incarnation[ids], experience.incarnation)

    def named(self, ids: np.ndarray, number: int, place: int) -> None:
        """Note that a request was served; each one once, in order.

        Args:
            ids: all samples that it names, in whatever state they are.
            number: of the request.
            place: number of the event, among those that serve requests, that served it.
        """
        self._place_before[ids] = self._place[ids]
        self._place[ids], self._last[ids] = place, number

    def named_by_others(self, ids: np.ndarray, number: int, place: int) -> np.ndarray:
        """Return, bool ``[n]``, which of `ids` a request other than `number`, served in `place` or later, names."""
        return np.where(self._last[ids] == number, self._place_before[ids], self._place[ids]) >= place

    def taught_again(self, name: str, ids: np.ndarray) -> Experience:
        """Return the experience that teaches `ids`, of which each was taught before, once more."""
        histories = [self._histories[n] for n in np.unique(self._history[ids]).tolist()]
        units = frozenset[int]().union(*(units for units, _ in histories))
        tasks = frozenset[int | None]().union(*(tasks for _, tasks in histories))
        task = next(iter(tasks)) if len(tasks) == 1 else None
        return Experience(name, tuple(sorted(units)), ids, task, 1 + int(self._incarnation[ids].max()))

    def _with(self, number: int, experience: Experience) -> int:
        """Return the number of a history with one more experience."""
        units, tasks = self._histories[number]
        more = (units.union(experience.units), tasks | {experience.task})
        if more not in self._number_of:
            self._number_of[more] = len(self._histories)
            self._histories.append(more)
        return self._number_of[more]
