"""The samples of an evaluation plan, held outside of any ledger: the one place where evaluation makes batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lifelong.evaluation.plan import EvaluationPlan
from strategies.objectives._base import EVALUATION, Objective
from streams.data import Batch, Batches
from streams.ledger import Ledger
from streams.source import Source
from streams.stream import Stream

_KEPT = 1 << 28
"""Bytes of inputs in batches that are kept from one evaluation to the next; larger ones are made again each time."""

_PREDICTED = 1 << 27
"""Numbers that one pass may predict: half a GiB of logits. Of many tokens fewer rows pass at once."""


# Why: docs/decisions.md#an-evaluation-holds-half-a-gib-of-logits
def rows_of_a_pass(batch_size: int, objective: Objective, source: Source) -> int:
    """Return how many samples an evaluation passes at once: `batch_size`, or what bounds the logits of text.

    >>> from types import SimpleNamespace as Fake
    >>> rows_of_a_pass(256, Fake(predicts="tokens", num_outputs=49_152), Fake(input_shape=(2, 40)))
    68
    >>> rows_of_a_pass(256, Fake(predicts="classes", num_outputs=49_152), Fake(input_shape=(40,)))
    256
    """
    if objective.predicts != "tokens":
        return batch_size
    return max(1, min(batch_size, _PREDICTED // (source.input_shape[1] * objective.num_outputs)))


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
            batch_size: of a pass, at most; see `rows_of_a_pass`.
            device: where they are kept.
        """
        self.size, self._objective = rows_of_a_pass(batch_size, objective, stream.source), objective
        self._device, self._sample_bytes = device, stream.source.sample_bytes
        self._data = Ledger(stream.source, stream.task_of, device).lend(plan.ids)

    def all(self) -> Sequence[Batch]:
        """Return every sample, in the order of the plan."""
        return self._batches(np.arange(len(self._data))) if len(self._data) else []

    def batches(self, positions: np.ndarray) -> Sequence[Batch]:
        """Return the samples at `positions` of the plan, in batches of one pass each."""
        return self._batches(positions)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the samples at `positions` of the plan as one batch."""
        return self._drawn(self._data.batch(torch.from_numpy(positions).to(self._device)))

    def _batches(self, positions: np.ndarray) -> Sequence[Batch]:
        parts = [part.numpy() for part in torch.from_numpy(positions).split(self.size)]
        batches = Batches(self.batch, parts)
        return list(batches) if len(positions) * self._sample_bytes <= _KEPT else batches

    def _drawn(self, batch: Batch) -> Batch:
        """Return a batch with what its losses draw by chance: the same for every model."""
        return self._objective.drawn(batch, EVALUATION)
