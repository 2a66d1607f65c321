"""Measurements that take more than one forward pass: greedy text, sampled images. An objective declares its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch

from strategies.metric import Metric
from streams.data import Batch
from streams.source import Source

Predict = Callable[[Batch], torch.Tensor]
"""From a batch to outputs: of one model, or of whatever a strategy predicts with."""


class Measurement(ABC):
    """From predictions to numbers of single samples (records). It knows neither strategy nor stream."""

    averaged: ClassVar[Mapping[str, Metric]] = {}
    """Records whose mean over the forget set of each request becomes a row of results, and what that means. Rows in
    which a record is NaN have none and are left out."""
    undefined: ClassVar[str] = "no sample has a value"
    """Why there may be no mean."""
    retained: ClassVar[int] = 0
    """Retained training samples that are measured beside the requests' data."""
    follows_requests: ClassVar[bool] = False
    """Whether all earlier requests are measured again after every request, and the model also before the first."""

    @abstractmethod
    def records(self, predict: Predict, batch: Batch) -> dict[str, np.ndarray]:
        """Return records of every sample by name, float32 ``[B]``; always the same names.

        Args:
            predict: the model's outputs for a batch, any number of times.
            batch: samples.
        """

    def held_out(self, predict: Predict, like: Batch, batch_size: int) -> dict[str, np.ndarray]:
        """Return records of samples that are in no stream, ``[S]``: of non-members, for attacks. Nothing by default.

        Args:
            predict: the model's outputs for a batch.
            like: any samples, for device and types.
            batch_size: samples per pass.
        """
        return {}

    def longest_row(self, source: Source) -> int:
        """Return the most tokens of a row that it has a model make, 0 if it passes rows of the source alone."""
        return 0

    def tests_are_non_members(self, source: Source) -> bool:
        """Return whether attacks hold a request against test samples, since `held_out` has no others."""
        return False
