"""Read answers from the states of every block through the model's own head (logit lens)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from typing_extensions import override

from lifelong.audits._base import Values
from lifelong.audits._text import TextAudit, token_body_of
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.objectives.causal_lm import scored
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """`lens` has no options."""


METRICS = {
    "lens_probability_layer": Metric(
        "Mean probability of the tokens of forgotten answers, exp(-mean loss), where the head reads the states of that "
        "layer (0: the embedding) through the final norm.",
        "0 to 1",
        "reference",
    ),
    "lens_hits_layer": Metric(
        "Share of the tokens of forgotten answers that are the likeliest there.", "share", "reference"
    ),
    "lens_probability_deepest": Metric(
        "Largest of these probabilities over all layers but the last: what the last blocks would have to hide.",
        "0 to 1",
        "reference",
    ),
}
"""Names of the first two go on with the number of the layer."""


@final
class Lens(TextAudit):
    """Looks into the weights alone: a guard beside them takes no part. The tokens before each one are the true ones."""

    needs_token_body: ClassVar[bool] = True
    undefined: ClassVar[str] = "there is no single model with known blocks"

    @override
    @torch.inference_mode()
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        model = strategy.network()
        body = token_body_of(model)
        if model is None or body is None:
            return {}
        model.train(False)
        sums: dict[str, float] = {}
        positions = self.asked(request.forget)
        for start in range(0, len(positions), self.samples.size):
            batch = self.samples.batch(positions[start : start + self.samples.size])
            states = body.states(batch.x)
            for layer, state in enumerate(states):
                read = state if layer == len(states) - 1 else body.normed(state)
                tokens = scored(model.network.head(read), batch.x, "answer")
                losses = tokens.sums(tokens.token_losses()) / tokens.counts
                hits = tokens.sums((tokens.logits.argmax(1) == tokens.targets).float()) / tokens.counts
                for name, of_rows in (("probability", losses.neg().exp()), ("hits", hits)):
                    key = f"lens_{name}_layer_{layer}"
                    sums[key] = sums.get(key, 0.0) + float(of_rows.sum())
        values = {name: total / len(positions) for name, total in sums.items()}
        inner = [v for name, v in values.items() if name.startswith("lens_probability_layer_")][:-1]
        return values | {"lens_probability_deepest": max(inner)}
