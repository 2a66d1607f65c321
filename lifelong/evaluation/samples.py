"""The samples of an evaluation plan, held outside of any ledger: the one place where evaluation makes batches."""

from __future__ import annotations

import numpy as np
import torch

from lifelong.evaluation.plan import EvaluationPlan
from strategies.objectives._base import EVALUATION, Objective
from streams.data import Batch
from streams.ledger import Ledger
from streams.stream import Stream


class Samples:
    """Gives batches of evaluation samples, always the same ones."""

    def __init__(
        self, stream: Stream, plan: EvaluationPlan, objective: Objective, batch_size: int, device: str
    ) -> None:
        """Gather the samples once.

        Args:
            stream: what they are from.
            plan: which they are.
            objective: draws what its losses need by chance.
            batch_size: of a pass.
            device: where they are kept.
        """
        self.size, self._objective = batch_size, objective
        self._data = Ledger(stream.source, stream.task_of, device).lend(plan.ids)

    def all(self) -> list[Batch]:
        """Return every sample, in the order of the plan."""
        return [self._drawn(batch) for batch in self._data.batches(self.size)]

    def batches(self, positions: np.ndarray) -> list[Batch]:
        """Return the samples at `positions` of the plan, in batches of one pass each."""
        return [self._drawn(self._data.batch(p)) for p in self._at(positions).split(self.size)]

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the samples at `positions` of the plan as one batch."""
        return self._drawn(self._data.batch(self._at(positions)))

    def _at(self, positions: np.ndarray) -> torch.Tensor:
        return self._data.positions()[torch.from_numpy(positions)]

    def _drawn(self, batch: Batch) -> Batch:
        """Return a batch with what its losses draw by chance: the same for every model."""
        return self._objective.drawn(batch, EVALUATION)
