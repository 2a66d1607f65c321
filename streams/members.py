"""Which training samples the keys of a request stand for, looked up instead of searched for at every request."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from streams.events import Experience, Scope
from streams.source import Source


class Members:
    """Training samples, learned or not, by class, user and task (unit)."""

    def __init__(self, source: Source, num_units: int, experiences: Sequence[Experience]) -> None:
        """Take what there is to learn.

        Args:
            source: the data.
            num_units: how many tasks there are.
            experiences: what teaches them; a task's samples are those of every experience that teaches it.
        """
        self._source, self._num_units, self._experiences = source, num_units, experiences
        self._columns: dict[Scope, _Column] = {}

    def of(self, scope: Scope, keys: Sequence[int]) -> np.ndarray:
        """Return the ids, ascending, that keys of a scope other than ``sample`` stand for."""
        if scope == "task":
            parts = [self._tasks.rows_of(key) for key in keys]
        else:
            parts = [self._column(scope).rows_of(key) for key in keys]
        return parts[0] if len(parts) == 1 else np.unique(np.concatenate([np.array([], dtype=np.int64), *parts]))

    def keys_with(self, scope: Scope, is_wanted: np.ndarray) -> np.ndarray:
        """Return the keys, ascending, that stand for at least one wanted sample.

        Args:
            scope: class, user or task.
            is_wanted: bool ``[N]``; test rows are not.
        """
        if scope != "task":
            return self._column(scope).keys_with(is_wanted)
        return self._tasks.keys_with(is_wanted)

    @functools.cached_property
    def _tasks(self) -> _Tasks:
        return _Tasks(self._num_units, self._experiences)

    def _column(self, scope: Scope) -> _Column:
        if scope not in self._columns:
            values = self._source.class_ids if scope == "class" else self._source.user_ids
            self._columns[scope] = _Column(values, self._source.train_ids)
        return self._columns[scope]


class _Column:
    """Rows by the value that they have in a column."""

    def __init__(self, values: np.ndarray, rows: np.ndarray) -> None:
        self._keys, self._code = np.unique(values, return_inverse=True)
        self._rows = rows[np.argsort(self._code[rows], kind="stable")]
        self._bounds = np.searchsorted(self._code[self._rows], np.arange(len(self._keys) + 1))

    def rows_of(self, key: int) -> np.ndarray:
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return self._rows[:0]
        return self._rows[self._bounds[place] : self._bounds[place + 1]]

    def keys_with(self, is_wanted: np.ndarray) -> np.ndarray:
        return self._keys[np.bincount(self._code[is_wanted], minlength=len(self._keys)) > 0]


class _Tasks:
    """Rows by the unit that they teach; a row may teach several."""

    def __init__(self, num_units: int, experiences: Sequence[Experience]) -> None:
        parts: list[list[np.ndarray]] = [[] for _ in range(num_units)]
        for experience in experiences:
            for unit in experience.units:
                parts[unit].append(experience.sample_ids)
        rows = [np.unique(np.concatenate([np.array([], dtype=np.int64), *own])) for own in parts]
        self._rows = np.concatenate([np.array([], dtype=np.int64), *rows])
        self._bounds = np.cumsum([0, *(len(own) for own in rows)])
        self._taught = np.flatnonzero(np.diff(self._bounds))

    def rows_of(self, unit: int) -> np.ndarray:
        return self._rows[self._bounds[unit] : self._bounds[unit + 1]]

    def keys_with(self, is_wanted: np.ndarray) -> np.ndarray:
        if not len(self._taught):
            return self._taught
        return self._taught[np.logical_or.reduceat(is_wanted[self._rows], self._bounds[self._taught])]
