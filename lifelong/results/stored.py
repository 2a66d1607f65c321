"""Scores and losses of single samples on disk: one evaluation after the other, what was looked at in each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import EvaluationPlan
from streams.errors import CheckpointError

FILES = ("scores.bin", "losses.bin")


def packed(values: np.ndarray, at: np.ndarray | None) -> bytes:
    """Return what is written of values ``[N]`` of an evaluation that looked at the positions `at`, or at all."""
    return (values if at is None else values[at]).astype("<f4").tobytes()


class Stored:
    """The outputs of the evaluations so far, that of the initial model being the first; read one by one."""

    def __init__(self, folder: Path, plan: EvaluationPlan, count: int) -> None:
        """Look at what there is.

        Args:
            folder: of the strategy.
            plan: what was evaluated.
            count: evaluations that must be there.

        Raises:
            CheckpointError: a file is shorter.
        """
        self._folder, self._plan = folder, plan
        self._events = [None, *np.flatnonzero(plan.measured).tolist()][:count]
        self._offsets = offsets_of(plan)[: count + 1]
        for name in FILES:
            if (folder / name).stat().st_size < 4 * self._offsets[-1]:
                raise CheckpointError(f"{folder / name} is shorter than its checkpoint says; delete {folder}.")

    def __getitem__(self, number: int) -> Outputs:
        """Return scores and losses ``[N]`` of an evaluation, NaN where it did not look."""
        at = self._plan.looked_at(self._events[number])
        scores, losses = (self._read(name, number, at) for name in FILES)
        return Outputs(scores, losses, at=at)

    def _read(self, name: str, number: int, at: np.ndarray | None) -> np.ndarray:
        start, stop = self._offsets[number : number + 2].tolist()
        values = np.fromfile(self._folder / name, dtype="<f4", count=stop - start, offset=4 * start)
        if at is None:
            return values
        whole = np.full(len(self._plan.ids), np.nan, dtype=np.float32)
        whole[at] = values
        return whole


def offsets_of(plan: EvaluationPlan) -> np.ndarray:
    """Return where every evaluation begins, in numbers, and where the last one ends."""
    sizes = [len(plan.ids) if at is None else len(at) for at in plan.looked_at_each()]
    return np.concatenate([[0], np.cumsum(sizes)])


def blanked(file: Path, plan: EvaluationPlan, positions: np.ndarray) -> bytes:
    """Return the content of one of `FILES` with NaN in the place of all numbers of the samples at `positions`."""
    values = np.fromfile(file, dtype="<f4")
    blank = np.zeros(len(plan.ids), dtype=bool)
    blank[positions] = True
    offset = 0
    for at in plan.looked_at_each():
        looked = blank if at is None else blank[at]
        part = values[offset : offset + len(looked)]
        part[looked[: len(part)]] = np.nan
        offset += len(looked)
    return values.tobytes()
