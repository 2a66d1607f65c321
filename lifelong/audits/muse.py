"""MUSE's verbatim memory and knowledge of what is deleted, and its utility: knowledge of what is kept."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from pydantic import Field
from typing_extensions import override

from lifelong.audits._base import Values
from lifelong.audits._text import ANSWER_TOKENS, CONTINUATION, TextAudit, mean, prompt_and_answer
from lifelong.evaluation.plan import RequestPlan
from lifelong.formulas.muse import cut_answer, rouge_f
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.objectives._base import Objective
from strategies.parts.text.generation import continued
from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.source import Source


class Config(BaseConfig):
    """Options of `muse`."""

    shots: int = Field(0, ge=0)
    """Questions with answers, about those who are never taught, that are put before a question. Small models that
    start from random weights do not learn from context."""


METRICS = {
    "verb_mem": Metric(
        "MUSE's VerbMem: ROUGE-L F-measure of the second half of each deleted text against what the model makes of the "
        "first half.",
        "percent",
        "reference",
    ),
    "know_mem": Metric(
        "MUSE's KnowMem: ROUGE-L F-measure of answers to questions about what is deleted, in words that were not "
        "trained where there are any.",
        "percent",
        "reference",
    ),
    "retain_know_mem": Metric(
        "MUSE's utility: ROUGE-L F-measure of answers to questions about what is kept, in words that were not trained.",
        "percent",
        "higher",
        100.0,
    ),
}


@final
class Muse(TextAudit):
    """Lets a model go on with texts and answer questions."""

    config: Config
    undefined: ClassVar[dict[str, str]] = {
        "know_mem": "the text has no questions, or they do not fit the model's context with the examples",
        "retain_know_mem": "there are no questions about what is kept, or they do not fit the context with the "
        "examples",
    }

    @classmethod
    @override
    def check(cls, config: BaseConfig, source: Source, objective: Objective, where: str) -> None:
        assert isinstance(config, Config)
        shown = None if source.text is None else source.text.shown
        num_questions = 0 if shown is None else len(shown)
        if config.shots > num_questions:
            raise ConfigError(
                f"{where}.shots: {config.shots} questions about those who are never taught are wanted, and the source "
                f"has {num_questions}. Lower it, or raise source.holdout where the source has it."
            )

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        return {
            "verb_mem": self.verbatim(strategy, self.asked(request.forget)),
            "know_mem": self.knowledge(strategy, self.questions(request)),
        }

    @override
    def of_stream(self, strategy: Strategy, event: int) -> Values:
        """Return MUSE's utility."""
        return {"retain_know_mem": self.knowledge(strategy, self.asked(self.plan.kept_questions(event)))}

    def verbatim(self, strategy: Strategy, positions: np.ndarray) -> float:
        """Return how much of the second half of each text comes out when its first half is given, in percent."""
        tokens = [x[0][x[1] > 0].tolist() for x in self.samples.batch(positions).x]
        cuts = [max(1, len(ids) // 2) for ids in tokens]
        true = [ids[cut : cut + CONTINUATION] for ids, cut in zip(tokens, cuts, strict=True)]
        begun = [ids[:cut] for ids, cut in zip(tokens, cuts, strict=True)]
        made = self._continued(strategy, begun, [len(ids) for ids in true])
        return mean(rouge_f([(self.decoded(t), m) for t, m in zip(true, made, strict=True)]))

    def knowledge(self, strategy: Strategy, positions: np.ndarray) -> float:
        """Return how close answers to questions come, in percent; NaN where rows have no questions."""
        pairs = [pair for pair in self.pairs(positions) if pair[0]]
        if not pairs:
            return float("nan")
        start = [self.text.tokenizer.bos, *self.examples()]
        prompts, room = [[*start, *prompt] for prompt, _ in pairs], self.room(strategy)
        if max(map(len, prompts)) >= room:  # with so many examples no question fits
            return float("nan")
        made = self._continued(strategy, prompts, [min(ANSWER_TOKENS, room - len(p)) for p in prompts])
        answers = [cut_answer(m) for m in made]
        return mean(rouge_f([(self.decoded(a), m) for (_, a), m in zip(pairs, answers, strict=True)]))

    def examples(self) -> list[int]:
        """Return the tokens of `shots` questions with their answers."""
        text, between = self.text, self.text.tokenizer.encode("\n\n")
        ids: list[int] = []
        for x in [] if text.shown is None else text.shown[: self.config.shots]:
            prompt, answer = prompt_and_answer(x)
            ids += [*prompt, *(t for t in answer if t != text.tokenizer.eos), *between]
        return ids

    def _continued(self, strategy: Strategy, prompts: list[list[int]], most: list[int]) -> list[str]:
        texts: list[str] = []
        for i in range(0, len(prompts), self.samples.size):
            part = slice(i, i + self.samples.size)
            texts += continued(strategy.predict, self.like(), prompts[part], most[part], self.text.tokenizer)
        return texts
