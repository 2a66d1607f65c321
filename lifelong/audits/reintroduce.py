"""Put facts into the context of the question: what was deleted from the weights may come back through it."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from lifelong.audits._base import Values
from lifelong.audits._text import Pair, TextAudit, prompt_and_answer
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.metric import Metric
from streams.config import Config as BaseConfig
from streams.randomness import Key
from streams.text import rows

STATEMENTS = 4
"""Statements that are put before a question: the one that answers it, and others about the same person."""
ALIAS = "Quorvex"
"""A name that nobody has: definitions say who it is, and what is true of it."""
CONDITIONS = {
    "none": "with nothing put before them",
    "true": "with the fact and others about the same person put before them",
    "other": "with facts about another person put before them",
    "definition": "with the fact stated about an alias, and who the alias is, put before them",
}
"""What is put before a question."""


class Config(BaseConfig):
    """`reintroduce` has no options."""


METRICS = {
    **{
        f"context_{condition}_{name}": Metric(
            f"{meaning} to questions about what is deleted, {before}.", "0 to 1", "reference"
        )
        for condition, before in CONDITIONS.items()
        for name, meaning in (
            ("accuracy", "Share of right answers"),
            ("probability", "Mean probability of the right answers"),
        )
    },
    "reintroduction_gain_accuracy": Metric(
        "UnUnlearning: right answers with the facts in the context minus those without. As large as the reference's "
        "where only the knowledge went; smaller where the method damaged the use of contexts.",
        "-1 to 1",
        "reference",
    ),
    "reintroduction_gain_probability": Metric(
        "The same by the probability of the right answers.", "-1 to 1", "reference"
    ),
}


@final
class Reintroduce(TextAudit):
    """Asks with statements put before the question; accuracy is that of whole answers."""

    undefined: ClassVar[str] = "there is no such statement, or the model's context is too short for it"

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        values: Values = {}
        positions = self.questions(request)
        questions = [(i, pair) for i, pair in zip(positions.tolist(), self.pairs(positions), strict=True) if pair[0]]
        named = self.source.user_ids[self.plan.ids[request.forget]]
        for condition in CONDITIONS:
            pairs = []
            for position, (prompt, answer) in questions:
                before = self.context(condition, int(self.plan.ids[position]), named)
                if before is not None:
                    pairs.append(([*self.text.tokenizer.encode(before), *prompt], answer))
            accuracy, probability = self._answered(strategy, pairs)
            values |= {f"context_{condition}_accuracy": accuracy, f"context_{condition}_probability": probability}
        for name in ("accuracy", "probability"):
            values[f"reintroduction_gain_{name}"] = values[f"context_true_{name}"] - values[f"context_none_{name}"]
        return values

    def context(self, condition: str, row: int, named: np.ndarray) -> str | None:
        """Return what is put before a question, or None where there is no such thing.

        Args:
            condition: one of `CONDITIONS`.
            row: id of the row that asks.
            named: users of the request.
        """
        source, key = self.source, Key(0) / "context" / row
        user, attribute = int(source.user_ids[row]), int(source.class_ids[row])
        if condition == "none":
            return ""
        if condition == "definition":
            name, statement = source.user_names[user], self.statement(row)
            return f"{ALIAS} is {name}. {statement.replace(name, ALIAS)}\n" if name in statement else None
        if condition == "other":
            others = np.setdiff1d(source.user_ids[(source.class_ids == attribute) & ~source.is_test], named)
            if not len(others):
                return None
            user = int(others[key.order(others)[0]])
            row = int(np.flatnonzero((source.user_ids == user) & (source.class_ids == attribute))[0])
        more = np.flatnonzero((source.user_ids == user) & (source.class_ids != attribute) & ~source.is_test)
        _, first = np.unique(source.class_ids[more], return_index=True)
        more = more[first]
        statements = np.array([row, *more[key.order(more)[: STATEMENTS - 1]]])
        return " ".join(self.statement(i) for i in statements[(key / "order").order(statements)].tolist()) + "\n"

    def statement(self, row: int) -> str:
        """Return what a row tells, in other words where there are any."""
        x = self.source.x if self.text.paraphrased is None else self.text.paraphrased
        return self.decoded(prompt_and_answer(x[row])[1]).strip()

    @torch.inference_mode()
    def _answered(self, strategy: Strategy, pairs: list[Pair]) -> tuple[float, float]:
        """Return the share of answers that are right, and their mean probability; NaN if they do not fit the model."""
        if not pairs:
            return float("nan"), float("nan")
        x = rows(pairs, self.text.tokenizer)
        if x.shape[2] > self.room(strategy):
            return float("nan"), float("nan")
        hits, likely = [], []
        for part in x.split(self.samples.size):
            batch = self.made(part)
            outputs = strategy.predict(self.setting.objective.asked(batch))
            hits.append(self.setting.objective.scores(outputs, batch))
            likely.append(self.likely(outputs, batch))
        return float(torch.cat(hits).mean()), float(torch.cat(likely).mean())
