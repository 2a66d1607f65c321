"""Keep the weights, to measure how far they are from a reference's, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from lifelong.audits._base import Audit
from lifelong.config.run import ReferenceKind
from lifelong.evaluation.outputs import Findings
from lifelong.formulas.distance import layer_distances
from lifelong.results.table import Row, row
from strategies.base import Strategy
from strategies.metric import Metric
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """`weights` has no options."""


METRICS = {
    "layer_distance": Metric(
        "Distance of all trained weights to the reference's, relative to their length.", "ratio", "lower", 0.0
    ),
    "layer_distance_max": Metric(
        "Largest relative distance of one layer's weights to the reference's.", "ratio", "lower", 0.0
    ),
}


@final
class Weights(Audit):
    """Keeps the flat vector of a single model's weights."""

    beside: ClassVar[tuple[ReferenceKind, ...]] = ("retrained", "retrained-2", "original")

    @override
    def look(self, strategy: Strategy, event: int) -> Findings:
        model = strategy.network()
        return (
            Findings() if model is None else Findings(stream={"weights": model.parameters.float().cpu().numpy().copy()})
        )

    @override
    def before_requests(self, strategy: Strategy, event: int) -> Findings:
        return Findings()

    @override
    def rows(self, model: str, event: int, findings: Findings, losses_before: Mapping[str, np.ndarray]) -> list[Row]:
        return []

    @override
    def rows_beside(
        self, kind: str, event: int, run: Findings, reference: Findings, losses_before: Mapping[str, np.ndarray]
    ) -> list[Row]:
        """Return distances; none where a strategy has grown to another number of weights than the reference."""
        weights, reference_weights = run.stream["weights"], reference.stream["weights"]
        if len(weights) != len(reference_weights):
            return []
        layers = layer_distances(weights, reference_weights, self.setting.outline().slices)
        whole = layer_distances(weights, reference_weights, {"all": slice(None)})["all"]
        return [
            row(event, kind, "stream", "layer_distance", whole, len(weights)),
            row(event, kind, "stream", "layer_distance_max", max(layers.values()), len(layers)),
        ]
