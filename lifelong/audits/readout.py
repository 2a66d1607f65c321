"""Fit a new last layer on frozen features: what the old one only hides is read out in full."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from lifelong.audits._base import Audit, Values
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch


class Config(BaseConfig):
    """`readout` has no options."""


METRICS = {
    "readout_accuracy": Metric(
        "Accuracy, on test data of what the request names, of a last layer fitted anew on frozen features of the "
        "forget set and as much retained data; a guard beside the weights takes no part in them.",
        "share",
        "reference",
    ),
}


@final
class Readout(Audit):
    """Reads the labels of a request's test data out of features."""

    undefined: ClassVar[str] = "no test data, no retained data, or no single feature space"
    averaged: ClassVar[tuple[str, ...]] = ("gap_readout_accuracy",)

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        """Return the accuracy on the request's test data; NaN where there is none."""
        live = self.plan.live(event)
        others = live[(self.setting.key / "readout" / request.name).order(self.plan.ids[live])]
        sides = (request.forget, np.sort(others[: len(request.forget)]), request.forget_test)
        batches = [self.samples.batch(positions) for positions in sides]
        model = strategy.network()
        features = [self._features(strategy, model, b) for b in batches] if all(map(len, batches)) else [None]
        if any(f is None for f in features):
            return {"readout_accuracy": float("nan")}
        forgotten, retained, held_out = (f.float().cpu().numpy() for f in features if f is not None)
        labels = [b.y.cpu().numpy() for b in batches]
        return {"readout_accuracy": readout(forgotten, labels[0], retained, labels[1], held_out, labels[2])}

    @torch.inference_mode()
    def _features(self, strategy: Strategy, model: FlatModel | None, batch: Batch) -> torch.Tensor | None:
        """Return the features ``[B, F]`` of the bare model, without a guard, or None where there is no single space."""
        if model is None:
            return strategy.features(self.setting.objective.asked(batch))
        model.train(False)
        return self.setting.objective.features(model, batch)

    @override
    def rests_on(self, request: RequestPlan) -> np.ndarray:
        return request.forget_test


def readout(
    forgotten: np.ndarray,
    forgotten_labels: np.ndarray,
    retained: np.ndarray,
    retained_labels: np.ndarray,
    held_out: np.ndarray,
    held_out_labels: np.ndarray,
) -> float:
    """Return the accuracy on `held_out` of a linear layer fitted anew on frozen features ``[n, F]``.

    It is fitted on the forgotten data and as much retained data; features are standardised on these. A class that is
    only hidden (a bias, a masked output) is read out in full; one that is gone as far as the features can.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = np.concatenate([forgotten, retained]), np.concatenate([forgotten_labels, retained_labels])
    if len(np.unique(y)) == 1:
        return float(np.mean(held_out_labels == y[0]))
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-6] = 1.0
    layer = LogisticRegression(max_iter=200).fit((x - mean) / scale, y)
    return float(np.mean(layer.predict((held_out - mean) / scale) == held_out_labels))
