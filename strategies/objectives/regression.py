"""Squared error of one output: the negative log likelihood of a Gaussian with unit variance."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from typing_extensions import override

from strategies.metric import Metric
from strategies.objectives._base import FisherEstimator, NamedObjective, Predicts
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError
from streams.source import Source


class Config(BaseConfig):
    """`regression` has no options."""


METRICS = {"negative_absolute_error": Metric("minus the mean absolute error", "units of the target", "higher", 0.0)}


@final
class Regression(NamedObjective):
    """Scalar regression; the score is minus the absolute error."""

    predicts: ClassVar[Predicts] = "numbers"
    measure: ClassVar[str] = "negative_absolute_error"
    by_class: ClassVar[bool] = False

    @classmethod
    @override
    def for_data(
        cls,
        config: BaseConfig,
        source: Source,
        task_classes: tuple[tuple[int, ...], ...] | None,
        device: str | torch.device,
    ) -> Regression:
        """Need real-valued targets; task labels make no difference."""
        if not source.y.is_floating_point():
            raise ConfigError(f"objective: {source.name!r} has class targets; set objective: classification.")
        return cls()

    @property
    @override
    def num_outputs(self) -> int:
        return 1

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return (f(x) - y)^2 / 2."""
        return 0.5 * (outputs.squeeze(1) - batch.y).square()

    @override
    def divergences(self, outputs: torch.Tensor, reference: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the KL divergence of Gaussians of unit variance, (f - f_reference)^2 / 2."""
        return 0.5 * (outputs - reference).square().squeeze(1)

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return -|f(x) - y|."""
        return -(outputs.squeeze(1) - batch.y).abs()

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> None:
        """Return None: there are no classes to compare."""
        return

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `Objective.fisher_terms`. Exact: E (d loss)^2 under N(f, 1) is (d f)^2, reached at a residual of 1."""
        f = outputs.squeeze(1)
        residual = f.detach() - batch.y
        if estimator == "exact":
            residual = torch.ones_like(f)
        elif estimator == "sampled":
            residual = torch.randn(len(f), generator=generator).to(f.device)
        weight = torch.ones_like(f)
        if estimator == "p-weighted":
            weight = torch.exp(-0.5 * residual.square()) / (2 * torch.pi) ** 0.5
        return [(weight, residual * f)]
