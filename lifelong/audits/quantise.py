"""Round the weights to 8 and to 4 bits, and look whether the forgotten answers come back."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from typing_extensions import override

from lifelong.audits._base import Values
from lifelong.audits._text import TextAudit, token_body_of
from lifelong.evaluation.plan import RequestPlan
from lifelong.formulas.attacks import round_weights, unmoved
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch

BITS = (8, 4)
"""To how many bits weights are rounded."""


class Config(BaseConfig):
    """`quantise` has no options."""


METRICS = {
    f"int{bits}_{name}": metric
    for bits in BITS
    for name, metric in (
        (
            "probability",
            Metric(
                f"Mean probability of a request's answers with the blocks' weights rounded to {bits} bits.",
                "0 to 1",
                "reference",
            ),
        ),
        ("recovered", Metric(f"What rounding to {bits} bits adds to that probability.", "-1 to 1", "reference")),
        (
            "robustness",
            Metric(
                f"1 - |after - before| / (after + before) of that probability under rounding to {bits} bits.",
                "0 to 1",
                "higher",
                1.0,
            ),
        ),
    )
}


@final
class Quantise(TextAudit):
    """Rounds the matrices inside the blocks."""

    needs_token_body: ClassVar[bool] = True
    undefined: ClassVar[str] = "there is no single model with known blocks"

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        values: Values = {}
        batch = self.samples.batch(self.asked(request.forget))
        model = strategy.network()
        before = float("nan") if model is None else self._probability(model, batch)
        for bits in BITS:
            model, after = strategy.network(), float("nan")
            body = token_body_of(model)
            if model is not None and body is not None:
                model.own_frozen()
                round_weights(body.layers, bits)
                after = self._probability(model, batch)
            values[f"int{bits}_probability"], values[f"int{bits}_recovered"] = after, after - before
            values[f"int{bits}_robustness"] = unmoved(before, after)
        return values

    @torch.inference_mode()
    def _probability(self, model: FlatModel, batch: Batch) -> float:
        model.train(False)
        return float(self.likely(self.setting.objective.outputs(model, batch), batch).mean())
