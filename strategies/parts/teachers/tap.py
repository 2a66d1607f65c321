"""Tap: what a module of the student returned in the training loop's own pass."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from strategies.parts.model import FlatModel
from streams.data import Batch


@final
class Tap:
    """Keeps what a module of a model returned in the loop's own forward pass, with its gradient.

    A second pass would cost more, draw other dropout noise and move batch-norm statistics twice.
    """

    def __init__(self, model: FlatModel, module: nn.Module) -> None:
        """Listen to a module of `model` that is called once in a pass."""
        self._model = model
        self._heard: tuple[Batch, torch.Tensor] | None = None
        self._handle = module.register_forward_hook(self._record)

    def take(self, batch: Batch) -> torch.Tensor:
        """Return what the module made of the batch that `fit` passed last, and let go of it."""
        assert self._heard is not None, "the loop has passed nothing"
        passed, output = self._heard
        assert passed is batch, "the loop has passed another batch last"
        self._heard = None
        return output

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()
        self._heard = None

    def _record(self, module: nn.Module, args: object, output: torch.Tensor) -> None:
        # Plugins pass batches of their own, and the objective builds the input: only the loop can tell its own pass.
        if self._model.passing is not None:
            self._heard = (self._model.passing, output)
