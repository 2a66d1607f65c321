"""Draws: the samples of a memory that are used at every step of a lesson."""

from __future__ import annotations

from typing import final

import torch

from streams.data import Batch, Data


@final
class Draws:
    """The samples to use at every step of a lesson, drawn before it begins.

    Attributes:
        data: what is drawn from.
        positions: int64 ``[steps, size]`` into it.
    """

    def __init__(self, data: Data, positions: torch.Tensor) -> None:
        """Take `data` and ``positions [steps, size]`` into it."""
        self.data, self.positions = data, positions

    @property
    def size(self) -> int:
        """Samples of a step."""
        return self.positions.shape[1]

    def __getitem__(self, step: int) -> Batch:
        return self.data.batch(self.positions[step])
