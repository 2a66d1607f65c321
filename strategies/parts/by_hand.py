"""The gradient of one perceptron: by hand inside the network, by a graph only from its outputs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, final

import torch

from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.perceptron import Layer, Perceptrons, can_pass, padded, to_rows
from streams.data import Batch


class Criterion(Protocol):
    """What is minimised; see `strategies.parts.fit.Criterion`."""

    is_plain: bool
    passes_once: bool

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Pass a batch, and return the scalar to differentiate."""


@final
class ByHand:
    """Differentiates what is minimised at the weights of one perceptron."""

    def __init__(
        self, model: FlatModel, layers: tuple[Layer, ...], objective: Objective, criterion: Criterion, rows: int
    ) -> None:
        """Take a model, what is minimised, and how many rows a batch has as far as is known."""
        self._model, self._objective, self._criterion, self._rows = model, objective, criterion, padded(rows)
        self._kernel = Perceptrons(layers, model.parameters.unsqueeze(0), model.gradient.unsqueeze(0))

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch; its gradient is that of the model then."""
        if self._criterion.is_plain and self._objective.passes_once and can_pass(*batch.inputs):
            known = self._objective.slopes(self._forward(batch.x), batch, None)
            if known is not None:
                losses, slopes = known
                self._kernel.backward(to_rows(slopes, self._rows))
                return losses.mean()
        return self._through_outputs(batch)

    def _through_outputs(self, batch: Batch) -> torch.Tensor:
        gradient = self._model.gradient
        loss, slopes, others = through_outputs(self._model, self._criterion, batch, self._forward)
        if slopes is not None:
            self._kernel.backward(to_rows(slopes, self._rows))
            if others is not None:
                gradient.add_(others)
        elif others is None:
            gradient.zero_()
        else:
            gradient.copy_(others)
        return loss

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        self._rows = max(self._rows, padded(len(x)))
        return self._kernel.forward(to_rows(x.flatten(1), self._rows))[0, : len(x)]


def through_outputs(
    model: FlatModel, criterion: Criterion, batch: Batch, forward: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Differentiate down to the outputs of a batch.

    Args:
        model: a perceptron; its gradient is overwritten.
        criterion: what is minimised.
        batch: what is passed.
        forward: gives outputs ``[B, C]`` for inputs, in place of the network; the network passes what comes later.

    Returns:
        The loss; its gradient by the outputs, None if it does not depend on them; and by the weights what does not come
        through them, None if there can be nothing.
    """
    first: list[torch.Tensor] = []

    def passed(*inputs: torch.Tensor) -> torch.Tensor | None:
        if first or not can_pass(*inputs):
            return None
        first.append(forward(inputs[0]).detach().requires_grad_())
        return first[0]

    model.by_hand = passed
    try:
        loss = criterion(batch)
    finally:
        model.by_hand = None
    more = not (criterion.passes_once and first)
    if more:
        model.gradient.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), first[0].grad if first else None, model.gradient.clone() if more else None
