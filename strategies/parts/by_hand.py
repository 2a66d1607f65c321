"""The gradient of one perceptron: by hand inside the network, by a graph only from its outputs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, final

import torch

from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.perceptron import Layer, Padded, Perceptrons, can_pass, padded
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
        self._model, self._criterion, self._rows = model, criterion, padded(rows)
        plain = criterion.is_plain and objective.passes_once
        self._rows_alone = objective.row_losses if plain else None
        self._even = torch.zeros(0)
        self._inputs, self._slopes = Padded(), Padded()
        self._kernel = Perceptrons(layers, model.parameters.unsqueeze(0), model.gradient.unsqueeze(0))

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch; its gradient is that of the model then."""
        rows_alone = self._rows_alone
        if rows_alone is not None and can_pass(*batch.inputs):
            y = batch.y
            if self._even.shape != y.shape:
                self._even = torch.full(y.shape, 1 / y.shape[0])
            noted, slopes = rows_alone.slopes(self._forward(batch.x), rows_alone.weighed(y, self._even))
            self._kernel.backward(self._slopes.filled(slopes, self._rows))
            return rows_alone.losses(noted, y).mean()
        return self._through_outputs(batch)

    def _through_outputs(self, batch: Batch) -> torch.Tensor:
        gradient = self._model.gradient
        loss, slopes, others = through_outputs(self._model, self._criterion, batch, self._forward)
        if slopes is not None:
            self._kernel.backward(self._slopes.filled(slopes, self._rows))
            if others is not None:
                gradient.add_(others)
        elif others is None:
            gradient.zero_()
        else:
            gradient.copy_(others)
        return loss

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[0]
        if size > self._rows:
            self._rows = padded(size)
        return self._kernel.forward(self._inputs.filled(x.flatten(1) if x.ndim > 2 else x, self._rows))[0, :size]


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
