"""SSD: shrink the weights that matter far more to the forget set than to all data; no training."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.ranges import log
from strategies.unlearners._dampen import DampenConfig, dampen, dampen_access
from streams.data import Data
from streams.events import DeletionRequest


class Config(DampenConfig):
    """Options of `ssd` (Foster et al. 2024, arXiv 2308.07707); defaults of its CIFAR ResNet-18."""

    estimator: Literal["per-sample", "batch"] = "per-sample"
    """per-sample: mean (d l)^2. batch: squares of the gradients of batch means, as in the authors' code; the result
    then depends on `batch_size`, and a short forget set in one batch is not comparable with full batches."""
    batch_size: int = Field(256, ge=1)
    """Samples per pass; it changes the result of `batch` alone."""


@final
class SSD(Unlearner):
    """Dampens by the diagonal of the empirical Fisher information."""

    config: Config
    ranges = {"alpha": log(0.1, 100.0), "strength": log(0.1, 5.0)}

    @property
    @override
    def access(self) -> Access:
        return dampen_access(self.config)

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("importance-log",) if self.config.whole == "stored" else ()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        estimator: Literal["batch", "empirical"] = "batch" if self.config.estimator == "batch" else "empirical"

        def importance(data: Data) -> tuple[torch.Tensor, Outcome]:
            size, key = self.config.batch_size, self.setting.key / "ssd" / request.name
            return diagonal_fisher(learner.model, self.setting.objective, data, estimator, key, size)

        return dampen(self.config, "loss", importance, learner, door, self.config.estimator == "batch")
