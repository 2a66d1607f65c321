"""CPR: reward the entropy of predictions, for wide minima that later learning moves less (Cha et al. 2021)."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Plugin
from strategies.parts.model import FlatModel
from strategies.ranges import log
from streams.config import Config as BaseConfig
from streams.data import Batch


class Config(BaseConfig):
    """Options of `cpr` (classifier-projection regularization; Cha et al. 2021, arXiv 2006.07326)."""

    strength: float = Field(0.1, ge=0)
    """beta in loss - beta H(p), H in nats. The paper tunes it between 0.1 and 1 for each data set."""


def mean_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples of -sum_c p_c log p_c, with 0 log 0 = 0 in value and gradient.

    >>> round(float(mean_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))), 4)
    0.3466
    """
    tiny = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp(min=tiny).log()).sum(1).mean()


@final
class CPR(Plugin):
    """Subtracts the mean entropy of the batch; objectives that predict no distribution are left as they are."""

    carries = ()
    config: Config
    supports = frozenset({"classes"})
    ranges = {"strength": log(0.01, 1.0)}

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return loss - beta H."""
        probabilities = self.setting.objective.probabilities(outputs, batch)
        if probabilities is None or not self.config.strength:
            return loss
        return loss - self.config.strength * mean_entropy(probabilities)
