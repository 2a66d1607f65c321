"""What audits share that ask of rows in other forms: items, what they are answered, and who the neighbours are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lifelong.audits._items import Fact, fact_of, mentioned
from lifelong.audits._text import TextAudit, mean, prompt_and_answer
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.parts.text.generation import continued
from strategies.parts.text.scores import rouge_l, words
from streams.data import Batch
from streams.randomness import Key

Predict = Callable[[Batch], torch.Tensor]
"""From a batch to logits ``[B, T, V]``."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is asked.

    Attributes:
        prompt: token ids, without the start token.
        expected: what a right answer says.
    """

    prompt: list[int]
    expected: str


class Asking(TextAudit):
    """Asks in text, and looks for what is expected in the answers."""

    def some(self, positions: np.ndarray, most: int, name: str) -> np.ndarray:
        """Return at most so many positions of rows with a question, one of each fact, drawn by name."""
        positions = positions[self.are_questions(positions)] if len(positions) else positions
        _, first = np.unique(self.fact_ids(self.plan.ids[positions]), return_index=True)
        positions = positions[np.sort(first)]
        return np.sort(positions[(Key(0) / "asking" / name).order(self.plan.ids[positions])[:most]])

    def facts(self, positions: np.ndarray) -> list[Fact]:
        """Return what rows say, in words."""
        return [self.fact(i) for i in self.plan.ids[positions].tolist()]

    def fact(self, row: int) -> Fact:
        """Return what a row of the source says."""
        text = self.text
        prompt, answer = (self.decoded(ids) for ids in prompt_and_answer(self.source.x[row]))
        question = prompt.removeprefix(text.form.before).removesuffix(text.form.behind)
        stated = "" if text.paraphrased is None else self.decoded(prompt_and_answer(text.paraphrased[row])[1])
        return fact_of(question, answer, stated, text.terms or (), text.subjects or ())

    def item(self, fact: Fact, before: str = "", behind: str = "") -> Item:
        """Return a fact's question with something before it, and the beginning of an answer behind it."""
        encode, form = self.text.tokenizer.encode, self.text.form
        return Item([*encode(before), *encode(form.prompt(fact.question)), *encode(behind)], fact.value)

    def bare(self, strategy: Strategy) -> Predict | None:
        """Return what predicts by the strategy's weights alone, without a guard; None of no single model."""
        model, objective = strategy.network(), self.setting.objective
        if model is None:
            return None
        model.train(False)
        return functools.partial(objective.outputs, model)

    def recall(self, predict: Predict, items: Sequence[Item], tokens: int) -> float:
        """Return the mean recall (ROUGE-L) of what is expected in what is answered, up to the end of a line.

        NaN where nothing is asked, or what is asked does not fit the longest row of the source's model.
        """
        return mean(self.recalls(predict, items, tokens))

    def recalls(self, predict: Predict, items: Sequence[Item], tokens: int) -> np.ndarray:
        """Return the recall of each item, ``[n]``."""
        tokenizer, size = self.text.tokenizer, self.samples.size
        made: list[str] = []
        for i in range(0, len(items), size):
            prompts = [[tokenizer.bos, *item.prompt] for item in items[i : i + size]]
            made += continued(predict, self.like(), prompts, [tokens] * len(prompts), tokenizer)
        pairs = zip(items, made, strict=True)
        return np.array([rouge_l(words(i.expected), words(m.strip().partition("\n")[0]))[0] for i, m in pairs])

    def examples(self, count: int) -> str | None:
        """Return questions about nobody who is taught, with their answers; None if there are not so many."""
        public = self.text.shown
        if public is None:
            return None
        pairs = [prompt_and_answer(x) for x in public[(Key(0) / "asking" / "shown").order(np.arange(len(public)))]]
        questions = [pair for pair in pairs if pair[0]]  # rows of running text have none
        if len(questions) < count:
            return None
        return "".join(f"{self.decoded(q)}{self.decoded(a)}\n" for q, a in questions[:count])

    def neighbours(self, event: int, request: RequestPlan) -> tuple[np.ndarray, np.ndarray]:
        """Return positions of live rows that mention a term of the forgotten rows, and of the other live rows.

        A value that others have, too, is such a term, and so is a subject that others' answers name. Of a source that
        knows no terms all live rows are of the second kind.
        """
        live = self.plan.live_retained(event)
        live = live[self.are_questions(live)] if len(live) else live
        gone: set[str] = set()
        for row in self.plan.ids[request.forget].tolist():
            gone.update(self._terms_of(row))
        near = np.array([not gone.isdisjoint(self._terms_of(r)) for r in self.plan.ids[live].tolist()], dtype=bool)
        return live[near], live[~near]

    def is_unique(self, row: int) -> bool:
        """Return whether no other user's rows tell the same value of the same class."""
        values, source = self.text.values, self.source
        if values is None:
            return False
        same = (values.numpy() == int(values[row])) & (source.class_ids == source.class_ids[row])
        return bool((source.user_ids[same] == source.user_ids[row]).all())

    def _terms_of(self, row: int) -> tuple[str, ...]:
        fact = self.fact(row)
        return tuple(mentioned(f"{fact.question} {fact.answer}", self.text.terms or ()))
