"""CE-U: cross-entropy to the model's own distribution without the true token; no reference, no retained data."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective, Scored
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import precise
from strategies.parts.model import FlatModel
from strategies.ranges import TRAINED_ON_TEXT
from strategies.unlearners._paired import ForgetLoss, Holding, PairedConfig, PairedUnlearner
from streams.data import Batch, Data
from streams.errors import DataError
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `ce-u` (Yang 2025, arXiv 2503.01224)."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate, all there is to choose. For models of a million weights; published for 7 billion: 1e-5."""
    skip: int = Field(1, ge=0)
    """Tokens at the beginning of each answer that are left as they are. An answer of one token needs 0."""
    retain: Holding = "none"
    """What is done with retained data; the method itself reads none."""


def without_truth(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy ``[S]`` to the model's own distribution with each target left out.

    No gradient flows through that distribution, so that the gradient is p on the target's logit and -p_v p / (1 - p) on
    every other: largest on what is sure, and none on what is forgotten.

    Args:
        logits: ``[S, V]``.
        targets: int64 ``[S]``.
    """
    values = precise(logits)
    own = values.detach().scatter(1, targets.unsqueeze(1), float("-inf")).softmax(1)
    return F.cross_entropy(values, own, reduction="none")


def places(scored_tokens: Scored) -> torch.Tensor:
    """Return which of its row's positions each one is, int64 ``[S]``, from 0."""
    counts = torch.bincount(scored_tokens.rows, minlength=scored_tokens.num_rows)
    first = counts.cumsum(0) - counts
    return torch.arange(len(scored_tokens.rows), device=first.device) - first[scored_tokens.rows]


@final
class OwnOthers(ForgetLoss):
    """The mean over the tokens of a batch behind the first ones of each answer."""

    def __init__(self, objective: TextObjective, skip: int) -> None:
        """Take the objective that is unlearned on."""
        self._objective, self._skip = objective, skip

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower.

        Raises:
            DataError: an answer has no token behind those that are left out.
        """
        scored_tokens = self._objective.scored(outputs, batch)
        counted = places(scored_tokens) >= self._skip
        left = scored_tokens.sums(counted.float())
        if bool((left == 0).any()):
            raise DataError(
                f"ce-u.skip: {self._skip} tokens at the beginning of each answer are left out, and an answer of the "
                f"request has no more than that. Set skip: 0."
            )
        losses = without_truth(scored_tokens.logits, scored_tokens.targets) * counted
        return self._objective.reduce(scored_tokens.sums(losses), left).mean()


@final
class CEU(PairedUnlearner):
    """Cross-entropy unlearning. Its loss is an entropy and never 0: the loss of the answers tells how far it is."""

    test_options = {"epochs": 1, "lr": 1e-3}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {"skip": (0, 1)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return OwnOthers(TextObjective.of(objective), self.config.skip), Outcome()
