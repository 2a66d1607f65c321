"""AltPO: prefer alternative answers, which the model itself gives or the source holds, to the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import answered, prefixed
from strategies.parts.model import FlatModel
from strategies.parts.text.generation import sampled
from strategies.parts.text.other_answers import Values, WrongAnswers, log_likelihoods
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, ReferencedConfig, ReferencedUnlearner
from strategies.unlearners._preference import Preference
from streams.data import Batch, Data
from streams.randomness import Key
from streams.text import ANSWER


class Config(ReferencedConfig):
    """Options of `altpo` (Mekala et al. 2024, arXiv 2409.13474). What it teaches is false, and said with confidence."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 5e-5."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature."""
    answers: Literal["generated", "source"] = "generated"
    """generated: what the model draws when the request comes. source: the source's wrong answers, for models that
    follow no instruction and know too well what is right."""
    alternatives: int = Field(5, ge=1)
    """Answers that are drawn for each question; in each step one of them is preferred."""
    temperature: float = Field(1.0, gt=0)
    """Of the draws."""
    instruction: str = ""
    """What is put before a question to have it answered otherwise, by a model that follows it (as published)."""


@final
class Alternatives:
    """Other answers to the questions of a forget set; those that say the same as the true one are left out."""

    def __init__(self, ids: np.ndarray, answers: Sequence[Sequence[tuple[int, ...]]], key: Key) -> None:
        """Take for each of ascending `ids` token ids of answers, each with its end token; at least one."""
        self._ids, self.answers, self._key = ids, answers, key

    def drawn(self, batch: Batch, step: int) -> np.ndarray:
        """Return which of its answers each sample gets at a step, int64 ``[B]``."""
        ids = batch.ids.cpu().numpy()
        count = np.array([len(self._of(i)) for i in ids.tolist()])
        return (self._key / "alternative" / step).below(ids, count)

    def put(self, batch: Batch, which: np.ndarray) -> Batch:
        """Return the batch with those answers."""
        return answered(batch, [self._of(i)[w] for i, w in zip(batch.ids.tolist(), which.tolist(), strict=True)])

    def _of(self, sample: int) -> Sequence[tuple[int, ...]]:
        return self.answers[int(np.searchsorted(self._ids, sample))]

    @torch.no_grad()
    def log_likelihoods(self, model: FlatModel, objective: Objective, data: Data, batch_size: int = 64) -> Values:
        """Return log p(answer | prompt) of every sample and answer, ``[n, R]``; of fewer the last again."""
        model.train(False)
        most = max(map(len, self.answers))
        parts = []
        for batch in objective.batches(data, batch_size):
            last = np.array([len(self._of(i)) - 1 for i in batch.ids.tolist()])
            asked = [self.put(batch, np.minimum(last, w)) for w in range(most)]
            parts.append(torch.stack([objective.log_likelihoods(objective.outputs(model, b), b) for b in asked], 1))
        return Values(data.ids, torch.cat(parts))


@final
class AltPO(ReferencedUnlearner):
    """Alternate preference optimisation. Alternatives derive from what is deleted, and go with the request."""

    test_options = {"epochs": 1, "lr": 1e-3, "alternatives": 2}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT | {"beta": log(0.01, 1.0)}

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        """Draw the alternatives, and compute the reference's log-likelihoods of them and of true answers once."""
        text = TextObjective.of(objective)
        alternatives, same = self.alternatives(reference, text, forget_set, key)
        true = log_likelihoods(reference, objective, forget_set)
        other = alternatives.log_likelihoods(reference, objective, forget_set)
        cost = Outcome(forward=len(forget_set) * (1 + 2 * self.config.alternatives))
        loss = Preference(objective, alternatives, true, other, self.config.beta)
        return loss, cost.noted(alternatives_true=same)

    @torch.no_grad()
    def alternatives(
        self, model: FlatModel, objective: TextObjective, data: Data, key: Key
    ) -> tuple[Alternatives, float]:
        """Return other answers to every question of `data`, and the share of draws that were the true answer."""
        config, text = self.config, objective.needed_text("unlearner: 'altpo'")
        if config.answers == "source":
            options = WrongAnswers(objective, key, true_too=False)
            drawn = [self._of_source(b, options) for b in objective.batches(data, 64)]
            return Alternatives(data.ids, [a for part in drawn for a in part], key), 0.0
        model.train(False)
        prefix = text.tokenizer.encode(config.instruction)
        found: list[list[tuple[int, ...]]] = []
        count = 0
        for batch in objective.batches(data, 64):
            asked = prefixed(batch, [prefix] * len(batch)) if prefix else batch
            true = [text.tokenizer.decode(x[0][x[1] == ANSWER].tolist()) for x in batch.x]
            texts = [
                sampled(
                    lambda b: objective.outputs(model, b), asked, text.tokenizer, key / "draw" / k, config.temperature
                )
                for k in range(config.alternatives)
            ]
            for row, right in enumerate(true):
                said = [t[row] for t in texts]
                others = [s for s in dict.fromkeys(said) if s.strip() and right.strip() not in s]
                count += sum(right.strip() in s for s in said)
                answers = [(*text.tokenizer.encode(s), text.tokenizer.eos) for s in others]
                # Who says nothing but the truth is taught a refusal, which is another answer, too.
                found.append(answers or [text.refusals[0]])
        return Alternatives(data.ids, found, key), count / (config.alternatives * max(1, len(data)))

    def _of_source(self, batch: Batch, options: WrongAnswers) -> list[list[tuple[int, ...]]]:
        """Return the source's wrong answers to a batch's questions, at most `alternatives` of each."""
        drawn = [options.put(batch, options.drawn(batch, k)) for k in range(self.config.alternatives)]
        rows = [[tuple(x[0][x[1] == ANSWER].tolist()) for x in b.x] for b in drawn]
        return [list(dict.fromkeys(of_row)) for of_row in zip(*rows, strict=True)]
