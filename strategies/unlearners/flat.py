"""FLAT: raise the probability of refusals and lower that of true answers by an f-divergence, without retained data."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals
from strategies.ranges import TRAINED_ON_TEXT
from strategies.unlearners._paired import ForgetLoss, Holding, PairedConfig, PairedUnlearner
from streams.data import Batch, Data
from streams.randomness import Key

Divergence = Literal["kl", "js", "pearson", "tv"]


class Config(PairedConfig):
    """Options of `flat` (Wang et al. 2024, arXiv 2410.11143)."""

    divergence: Divergence = "tv"
    """Kullback-Leibler, Jensen-Shannon, Pearson or total variation; those that the paper reports."""
    retain: Holding = "none"
    """What is done with retained data; the method itself reads none."""


def flat_loss(refused: torch.Tensor, true: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """Return -(g(P_e) - f*(g(P_f))), the variational form of an f-divergence with its optimal g (table 1).

    Args:
        refused: P_e, the mean probability of a token of the refusals.
        true: P_f, that of the true answers.
        divergence: which f.
    """
    match divergence:
        case "kl":
            return (true - 1).exp() - refused
        case "js":
            return -(math.log(2) - F.softplus(-refused)) + true + F.softplus(-true) - math.log(2)
        case "pearson":
            return true + true.square() / 4 - refused
        case "tv":
            return (true.tanh() - refused.tanh()) / 2


@final
class Adjust(ForgetLoss):
    """The FLAT loss of a batch."""

    def __init__(self, objective: TextObjective, refusals: Refusals, divergence: Divergence) -> None:
        """Take the objective that is unlearned on."""
        self._objective, self._refusals, self._divergence = objective, refusals, divergence

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return true answers followed by refusals."""
        return self._refusals.beside(batch, self._refusals.drawn(batch, step))

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        scored_tokens = self._objective.scored(outputs, batch)
        p = scored_tokens.sums(scored_tokens.token_losses().neg().exp()) / scored_tokens.counts
        half = len(batch) // 2
        return flat_loss(p[half:].mean(), p[:half].mean(), self._divergence)


@final
class FLAT(PairedUnlearner):
    """Forget-data-only loss adjustment."""

    test_options = {"epochs": 1, "lr": 1e-3}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        text = TextObjective.of(objective)
        return Adjust(text, Refusals(text, key), self.config.divergence), Outcome()
