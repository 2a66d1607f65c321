"""WHP-logit: lower what a model that learned the forget set even better would say more loudly (Who's Harry Potter)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.guards._assistants import AssistantConfig, Assisted
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.ranges import linear, log
from streams.data import Data
from streams.randomness import Key


class Config(AssistantConfig):
    """Options of `whp-logit` (Eldan and Russinovich 2023, arXiv 2310.02238; this form is MUSE's, arXiv 2407.06460).

    The second model is as large as the first.
    """

    lr: float = Field(3e-4, gt=0)
    """Learning rate of the reinforced model."""
    strength: float = Field(1.0, ge=0)
    """a in l_base - a relu(l_reinforced - l_base). MUSE walks through values until the answers are those of
    retraining."""


def lessened(base: torch.Tensor, reinforced: Sequence[torch.Tensor], strength: float) -> torch.Tensor:
    """Return l_base - strength sum_k relu(l_k - l_base), of logits of any shape."""
    if not strength:
        return base
    return base - strength * torch.stack([F.relu(r - base) for r in reinforced]).sum(0)


@final
class WHPLogit(Assisted):
    """A reinforced model per request, which is never asked alone."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    reads_retained = False
    ranges = {"lr": log(1e-5, 1e-3), "epochs": linear(1, 20), "strength": log(0.1, 10.0)}

    @override
    def train(
        self, model: FlatModel, start: tuple[FlatModel, ...], forget_set: Data, retained: Data | None, key: Key
    ) -> tuple[tuple[FlatModel, ...], Outcome]:
        (reinforced,) = start
        return (reinforced,), fit(reinforced, self._answering, forget_set, self.config, key)

    @override
    def combined(self, base: torch.Tensor, said: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        return lessened(base, [outputs for (outputs,) in said], self.config.strength)
