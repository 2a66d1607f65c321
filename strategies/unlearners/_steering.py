"""Hidden states of a block, steered on the forget set and held where they were on retained data (`rmu`, `seuf`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from typing_extensions import override

from strategies.objectives._base import Objective
from strategies.objectives._text import Tokens
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import Listener, blocks_of
from strategies.unlearners._paired import ForgetLoss
from streams.data import Batch, Data
from streams.randomness import Key
from streams.text import ANSWER


def mean_of_rows(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the mean over rows of the mean over each row's positions that count.

    Args:
        values: ``[B, T]``.
        counts: bool ``[B, T]``.
    """
    weight = counts.to(values.dtype)
    return ((values * weight).sum(1) / weight.sum(1).clamp(min=1)).mean()


def counting(batch: Batch, length: int, positions: Tokens) -> torch.Tensor:
    """Return which positions count, bool ``[B, length]``."""
    part = batch.x[:, 1, :length]
    return part == ANSWER if positions == "answer" else part > 0


@final
class Steering(ForgetLoss):
    """Both terms of RMU (Li et al. 2024, arXiv 2403.03218), each a mean over features, positions and rows."""

    def __init__(
        self, now: Listener, then: Listener, before: FlatModel, target: torch.Tensor, positions: Tokens
    ) -> None:
        """Take what is listened to, and what is wanted.

        Args:
            now, then: listen to the block, in the model and in the model before the request.
            before: the model before the request.
            target: c u, ``[width]``.
            positions: that are steered and held.
        """
        self._now, self._then, self._before, self._target, self._positions = now, then, before, target, positions

    @override
    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar mean ||h - c u||^2 of the batch that has just passed."""
        return self._apart(self._target, batch)

    def held(self, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Pass a retained batch through both models, and return the scalar mean ||h - h_before||^2."""
        model.features(*batch.inputs)
        with torch.no_grad():
            self._before.features(*batch.inputs)
        return self._apart(self._then.state, batch)

    def _apart(self, wanted: torch.Tensor, batch: Batch) -> torch.Tensor:
        distances = (self._now.state - wanted).square().mean(2)
        return mean_of_rows(distances, counting(batch, distances.shape[1], self._positions))


@contextmanager
def steering(
    model: FlatModel,
    before: FlatModel,
    block: int,
    objective: Objective,
    forget_set: Data,
    multiple: float,
    positions: Tokens,
    key: Key,
) -> Iterator[Steering]:
    """Listen to a block of two models while this is open; draws the direction and passes the forget set once.

    c u is drawn as published: u a unit vector of uniform draws (all positive); c is in units of the mean norm of the
    forget set's states.

    Args:
        model, before: as it is, and a frozen copy.
        block: whose output is steered.
        objective: makes batches.
        forget_set: what is to go.
        multiple: c, of these units.
        positions: that are steered and held.
        key: names the direction.
    """
    now, then = (Listener(blocks_of(m)[block]) for m in (model, before))
    try:
        norms = []
        with torch.no_grad():
            for batch in objective.batches(forget_set, 64):
                before.features(*batch.inputs)
                norms.append(then.state.norm(dim=2)[counting(batch, then.state.shape[1], positions)])
            u = torch.rand(then.state.shape[2], generator=(key / "direction").torch()).to(then.state)
            target = multiple * torch.cat(norms).mean() * u / u.norm()
        yield Steering(now, then, before, target, positions)
    finally:
        for listener in (now, then):
            listener.close()
