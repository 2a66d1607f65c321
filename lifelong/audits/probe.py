"""Read values, and the truth of answers, from the hidden states of every layer with linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from lifelong.audits._base import Values
from lifelong.audits._text import TextAudit, mean, token_body_of
from lifelong.evaluation.plan import RequestPlan
from lifelong.formulas.attacks import probed
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.parts.text.token_body import TokenBody
from streams.config import Config as BaseConfig
from streams.positions import positions_in
from streams.randomness import Key
from streams.text import ANSWER, GIVEN


class Config(BaseConfig):
    """`probe` has no options."""


METRICS = {
    "probe_value_layer": Metric(
        "Share of forgotten facts whose value a linear probe reads from that layer (0: the embedding) at the end of a "
        "question in other words than it was fitted on.",
        "share",
        "reference",
    ),
    "probe_selectivity_layer": Metric(
        "That share minus what the same probe reaches with the values dealt out anew.", "-1 to 1", "reference"
    ),
    "probe_truth_layer": Metric(
        "Share of right and wrong answers about forgotten facts that a linear probe on that layer, fitted on answers "
        "that are kept, tells apart; 0.5 is chance.",
        "share",
        "reference",
    ),
}
"""Names go on with the number of the layer."""


@final
class Probe(TextAudit):
    """Fits one probe a layer; nothing where there is no single language model."""

    needs_token_body: ClassVar[bool] = True
    undefined: ClassVar[str] = "no held-out wording asks for it"

    @override
    def of_requests(self, strategy: Strategy, event: int, requests: Sequence[RequestPlan]) -> list[Values]:
        model = strategy.network()
        body = token_body_of(model)
        if model is None or body is None:
            return [{} for _ in requests]
        model.train(False)
        both = zip(self._values(body, requests), self._truth(body, event, requests), strict=True)
        return [values | truth for values, truth in both]

    def _values(self, body: TokenBody, requests: Sequence[RequestPlan]) -> list[Values]:
        """Read what each fact's value is at the end of its question, everybody's in words that were trained.

        Fitted on one wording of every fact that there is, of the forgotten too, and tested on the wording held out of
        those that a request deletes. The control has the values of a class dealt out anew: what it reaches is the
        probe's own doing.
        """
        source, values = self.source, self.text.values
        if values is None or not any(self.are_questions(r.forget_test).any() for r in requests):
            return [{} for _ in requests]
        value_ids = values.numpy()
        train = np.flatnonzero(~source.is_test)
        train = train[np.sort(np.unique(self.fact_ids(train), return_index=True)[1])]
        tested = np.unique(np.concatenate([r.forget_test for r in requests]))
        test = self.plan.ids[tested]
        states = [self._states(body, self.rows_of(ids), last=GIVEN) for ids in (train, test)]
        tables: list[Values] = [{} for _ in requests]
        for layer in range(len(states[0])):
            hits, control = np.zeros(len(test), dtype=bool), np.zeros(len(test), dtype=bool)
            for attribute in np.unique(source.class_ids[test]):
                fitted, of_attribute = source.class_ids[train] == attribute, source.class_ids[test] == attribute
                labels = value_ids[train[fitted]]
                dealt = labels[(Key(0) / "control" / int(attribute)).order(train[fitted])]
                value_of = dict(zip(self.fact_ids(train[fitted]).tolist(), dealt.tolist(), strict=True))
                truth = np.array([value_of.get(fact, -1) for fact in self.fact_ids(test[of_attribute]).tolist()])
                sides = states[0][layer][fitted], states[1][layer][of_attribute]
                hits[of_attribute] = probed(sides[0], labels, sides[1]) == value_ids[test[of_attribute]]
                control[of_attribute] = probed(sides[0], dealt, sides[1]) == truth
            for request, table in zip(requests, tables, strict=True):
                at = positions_in(tested, request.forget_test)
                accuracy = mean(hits[at])
                table[f"probe_value_layer_{layer}"] = accuracy
                table[f"probe_selectivity_layer_{layer}"] = accuracy - mean(control[at])
        return tables

    def _truth(self, body: TokenBody, event: int, requests: Sequence[RequestPlan]) -> list[Values]:
        """Read whether an answer is right at its last token; fitted on answers that are kept, tested on forgotten ones.

        After arXiv 2409.02228. There are as many wrong answers as right ones, put in the same words.
        """
        text, live = self.text, self.plan.live_retained(event)
        if text.paraphrased is None or text.perturbed is None or not len(live):
            return [{} for _ in requests]
        sides = [self._with_wrong(self.plan.ids[p]) for p in (live, *(self.asked(r.forget) for r in requests))]
        if not len(sides[0]):
            return [{} for _ in requests]
        states = [
            self._states(body, torch.cat([text.paraphrased[ids], text.perturbed[ids, 0]]), last=ANSWER)
            if len(ids)
            else []
            for ids in sides
        ]
        tables: list[Values] = [{} for _ in requests]
        for layer, train in enumerate(states[0]):
            for table, ids, tested in zip(tables, sides[1:], states[1:], strict=True):
                truth = np.repeat([1, 0], len(ids))
                read = probed(train, np.repeat([1, 0], len(sides[0])), tested[layer]) if len(ids) else truth
                table[f"probe_truth_layer_{layer}"] = mean(read == truth)
        return tables

    def _with_wrong(self, ids: np.ndarray) -> np.ndarray:
        """Return those rows that have wrong answers."""
        return ids[self.text.wrong_counts(torch.from_numpy(ids)) > 0]

    @torch.inference_mode()
    def _states(self, body: TokenBody, x: torch.Tensor, last: int) -> list[np.ndarray]:
        """Return the hidden states of every layer ``[n, F]`` at the last token of the prompt, or of the answer."""
        layers: list[list[torch.Tensor]] = []
        for part in x.split(self.samples.size):
            batch = self.made(part)
            at = (batch.x[:, 1] > 0).sum(1) - 2 if last == ANSWER else (batch.x[:, 1] == GIVEN).sum(1) - 1
            rows = torch.arange(len(part), device=at.device)
            layers.append([s[rows, at] for s in body.states(batch.x)])
        return [torch.cat(parts).float().cpu().numpy() for parts in zip(*layers, strict=True)]
