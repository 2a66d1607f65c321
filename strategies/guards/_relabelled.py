"""Other answers taught to an adapter, and its subspaces kept away from those of earlier adapters (O3, LUMoE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from typing_extensions import override

from strategies.parts.fit import Hooks
from strategies.parts.lowrank.changes import overlap
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals, WrongAnswers
from streams.data import Batch


@final
class Relabelled(Hooks):
    """Teaches other answers; a sample's draw is the same in every step."""

    carries = ()

    def __init__(
        self,
        answers: Refusals | WrongAnswers,
        downs: Sequence[torch.Tensor] = (),
        earlier: Sequence[Sequence[torch.Tensor]] = (),
        strength: float = 0.0,
    ) -> None:
        """Take what is taught.

        Args:
            answers: put in the place of the true ones.
            downs: the A of the adapter, with gradient.
            earlier: those of every earlier adapter.
            strength: lambda in lambda sum_i ||A_i A^T||_F^2.
        """
        self._answers, self._downs, self._earlier, self._strength = answers, downs, earlier, strength

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        return self._answers.put(batch, self._answers.drawn(batch, 0))

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Add lambda sum_i ||A_i A^T||_F^2."""
        if not self._earlier or not self._strength:
            return loss
        terms = [overlap(a, other) for downs in self._earlier for a, other in zip(self._downs, downs, strict=True)]
        return loss + self._strength * torch.stack(terms).sum()
