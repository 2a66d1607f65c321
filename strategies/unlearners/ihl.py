"""IHL: let the runner-up overtake each token of the forget set, by a hinge loss that cannot run away (LoKU's loss)."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from strategies.base import Outcome, Setting
from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM, precise
from strategies.parts.model import FlatModel
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner, needs_text
from streams.data import Batch, Data
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `ihl` (Cha et al. 2024, arXiv 2408.06621), without its initialisation of low-rank adapters."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for low-rank adapters: 1e-4 to 2e-4."""


def inverted_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return 1 + p(y) - max over v != y of p(v) of every token, ``[S]``, in (0, 2).

    Args:
        logits: ``[S, V]``.
        targets: int64 ``[S]``.
    """
    p = precise(logits).softmax(1)
    true = p.gather(1, targets.unsqueeze(1)).squeeze(1)
    # The largest of the others; among equals the first, so that only one gets the gradient.
    runner_up = logits.detach().scatter(1, targets.unsqueeze(1), float("-inf")).argmax(1)
    return 1 + true - p.gather(1, runner_up.unsqueeze(1)).squeeze(1)


@final
class Invert(ForgetLoss):
    """The mean over a batch's tokens."""

    def __init__(self, objective: CausalLM) -> None:
        """Take the objective that is unlearned on."""
        self._objective = objective

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        found = self._objective.scored(outputs, batch)
        return inverted_hinge(found.logits, found.targets).mean()


@final
class IHL(PairedUnlearner):
    """Inverted hinge loss on the forget set, descent on retained data."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Need text.

        Raises:
            ConfigError: the objective is not one of text.
        """
        super().__init__(config, setting)
        needs_text(setting, "ihl")

    def prepare(self, model: FlatModel, objective: Objective, forget_set: Data, key: Key) -> tuple[ForgetLoss, Outcome]:
        """Nothing has to be prepared."""
        assert isinstance(objective, CausalLM)
        return Invert(objective), Outcome()
