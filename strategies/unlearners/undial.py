"""UNDIAL: distil the model from itself, the logits of what is to go lowered; reads the forget set alone, and ends."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import precise
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.ranges import TRAINED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, Holding, PairedConfig, PairedUnlearner
from streams.data import Batch, Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `undial` (Dong et al. 2024, arXiv 2402.10052).

    The mean is over the tokens that are unlearned on; OpenUnlearning's is over prompts and padding, too.
    """

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for low-rank adapters of 7 billion: 1e-4."""
    beta: float = Field(10.0, ge=0)
    """How much the logit of a true token is lowered; published: 3, 10 or 30."""
    margin: float | None = Field(None, ge=0)
    """Lower it to so much below the likeliest other token, however high it is, in place of `beta`; null uses that."""
    retain: Holding = "none"
    """What is done with retained data; the method itself reads none."""


def lowered(logits: torch.Tensor, targets: torch.Tensor, beta: float, margin: float | None = None) -> torch.Tensor:
    """Return the distributions ``[S, V]`` to distil: softmax of the logits, those of the targets lowered.

    Args:
        logits: ``[S, V]`` of the model before the request.
        targets: int64 ``[S]``.
        beta: by how much.
        margin: to how much below the highest other logit, in place of `beta`; what lies lower stays.
    """
    column, values = targets.unsqueeze(1), precise(logits)
    true = values.gather(1, column)
    if margin is None:
        low = true - beta
    else:
        low = torch.minimum(true, values.scatter(1, column, float("-inf")).amax(1, keepdim=True) - margin)
    return values.scatter(1, column, low).softmax(1)


def soft_cross_entropies(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return -sum_v q_v log p_v of every position, ``[S]``.

    Args:
        logits: ``[S, V]``.
        targets: q, ``[S, V]``.
    """
    return F.cross_entropy(precise(logits), targets, reduction="none")


@final
class SelfDistilled(ForgetLoss):
    """The cross-entropy to the lowered distributions of the model before the request."""

    def __init__(self, objective: TextObjective, before: FlatModel, config: Config) -> None:
        """Take the frozen model."""
        self._objective, self._before, self._config = objective, before, config

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        objective, config = self._objective, self._config
        with torch.no_grad():
            reference = objective.scored(objective.outputs(self._before, batch), batch)
            wanted = lowered(reference.logits, reference.targets, config.beta, config.margin)
        scored_tokens = objective.scored(outputs, batch)
        losses = soft_cross_entropies(scored_tokens.logits, wanted)
        return objective.reduce(scored_tokens.sums(losses), scored_tokens.counts).mean()


@final
class UNDIAL(PairedUnlearner):
    """Self-distillation with adjusted logits. Each request distils from the model as it is when the request comes."""

    test_options = {"epochs": 1, "lr": 1e-3}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {"beta": log(1.0, 30.0)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        cost = Outcome(forward=self.config.epochs * len(forget_set))
        return SelfDistilled(TextObjective.of(objective), frozen_copy(self.setting, reference), self.config), cost
