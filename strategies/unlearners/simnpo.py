"""SimNPO: push down the likelihood per token of the forget set, without any reference model."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.ranges import TRAINED_ON_TEXT, linear, log
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner
from streams.data import Batch, Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `simnpo` (Fan et al. 2024, arXiv 2410.07163); defaults for TOFU's forget10 from their code."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    beta: float = Field(4.5, gt=0)
    """Inverse temperature; 2.5 for forget05."""
    margin: float = 0.0
    """delta in -(2 / beta) log sigmoid(beta (loss - delta)). The paper writes gamma for beta delta."""
    forget_weight: float = Field(0.125, ge=0)
    """gamma, the weight of the forget loss; 0.1375 for forget05."""


def simnpo_losses(losses: torch.Tensor, beta: float, margin: float) -> torch.Tensor:
    """Return -(2 / beta) log sigmoid(beta (loss - margin)) of every sample, ``[B]``.

    Args:
        losses: -log p of every sample, ``[B]``: of a text the mean over its tokens.
        beta: inverse temperature.
        margin: what the loss is held against.
    """
    return -(2 / beta) * F.logsigmoid(beta * (losses - margin))


@final
class Simple(ForgetLoss):
    """The mean SimNPO loss of a batch."""

    def __init__(self, objective: Objective, beta: float, margin: float) -> None:
        """Take the objective that is unlearned on."""
        self._objective, self._beta, self._margin = objective, beta, margin

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        return simnpo_losses(self._objective.mean_losses(outputs, batch), self._beta, self._margin).mean()


@final
class SimNPO(PairedUnlearner):
    """Simple negative preference optimisation: length-normalised, reference-free."""

    test_options = {"epochs": 1}
    config: Config
    ranges = TRAINED_ON_TEXT | {"beta": linear(1.0, 10.0), "margin": linear(0.0, 2.0), "forget_weight": log(0.05, 1.0)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return Simple(self.setting.objective, self.config.beta, self.config.margin), Outcome()
