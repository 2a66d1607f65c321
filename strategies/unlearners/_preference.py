"""The loss of preference optimisation, which `dpo` and `altpo` share."""

from __future__ import annotations

from typing import Protocol, final

import numpy as np
import torch
import torch.nn.functional as F
from typing_extensions import override

from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import joined
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Values
from strategies.unlearners._paired import ForgetLoss
from streams.data import Batch


def dpo_losses(preferred: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Return -(2 / beta) log sigmoid(beta (preferred - rejected)) of every sample, ``[B]``.

    The factor 2 / beta is TOFU's and NPO's; the paper has none.

    Args:
        preferred, rejected: log-likelihood of an answer minus that under the reference, ``[B]``, sums over tokens.
        beta: inverse temperature.
    """
    return -(2 / beta) * F.logsigmoid(beta * (preferred - rejected))


class Others(Protocol):
    """Answers that can stand in the place of the true ones."""

    def drawn(self, batch: Batch, step: int) -> np.ndarray:
        """Return which of them each sample gets at a step, int64 ``[B]``."""

    def put(self, batch: Batch, which: np.ndarray) -> Batch:
        """Return the batch with those as answers."""


@final
class Preference(ForgetLoss):
    """The mean DPO loss of a batch: other answers are preferred to the true ones."""

    def __init__(self, objective: Objective, others: Others, true: Values, other: Values, beta: float) -> None:
        """Keep the reference's log-likelihoods of true answers ``[n]`` and of all others ``[n, R]``."""
        self._objective, self._others, self._beta = objective, others, beta
        self._true, self._other = true, other
        self._which = torch.zeros(0, dtype=torch.long)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return true answers followed by others."""
        which = self._others.drawn(batch, step)
        self._which = torch.from_numpy(which).to(batch.ids.device)
        return joined(batch, self._others.put(batch, which))

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        half = len(batch) // 2
        log_p = self._objective.log_likelihoods(outputs, batch)
        true = self._true.of(batch.part(0, half))
        other = self._other.of(batch.part(0, half)).gather(1, self._which.unsqueeze(1)).squeeze(1)
        return dpo_losses(log_p[half:] - other, log_p[:half] - true, self._beta).mean()
