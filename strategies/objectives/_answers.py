"""Records of single rows of text: one pass over answers, one over other answers, and greedy text."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.measurement import Measurement, Predict
from strategies.metric import Metric
from strategies.objectives._base import Scored, precise
from strategies.parts.text.generation import as_batch, greedy
from strategies.parts.text.scores import (
    MIN_K,
    choice_probability,
    exact_memorisation,
    extraction_strength,
    min_k,
    ngram_entropy,
    normalised,
    porter,
    rouge_l,
    truth_probability,
    truth_ratio,
    words,
)
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.source import Source
from streams.text import GIVEN, Text, first_answer, prompt_lengths

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
"""Records whose lowness tells members from non-members."""
_OF_TOKENS = ("loss", "probability", "zlib", "exact_memorisation", "extraction_strength", "min_k", "min_k_plus_plus")


class AnswersConfig(BaseConfig):
    """What is recorded of the answers of requests and of a few retained ones, where source and rows have it."""

    records: tuple[Literal["wrong", "text"], ...] = ("wrong", "text")
    """Beside losses, probabilities and membership scores, which take one pass: answers in other words and wrong ones
    (wrong: truth ratio, choice, utility; a pass for each wrong answer), and greedy text (text: ROUGE, entropy, utility;
    a pass for each token). With `evaluation.follow` earlier requests are recorded less often."""
    tokens: int | None = Field(None, ge=1)
    """Most tokens of greedy text. null: as many as fit into the source's longest row. TOFU and OpenUnlearning have 200,
    of which what rambles on profits: ROUGE recall does not mind."""
    stemmer: bool = False
    """Whether ROUGE compares the stems of words (Porter's, of nltk), as TOFU and OpenUnlearning do."""


@final
class Answers(Measurement):
    """Says how well the answers of a source of text are known.

    ``loss`` and ``probability`` are of the whole answer, and ``zlib`` is the loss over the bytes that its text packs
    into; ``exact_memorisation``, ``extraction_strength``, ``min_k`` and ``min_k_plus_plus`` leave its end token out, as
    OpenUnlearning does. ``truth_ratio``, ``truth_prob`` and ``choice`` are there where the source has wrong answers,
    and NaN in rows that have none; there are then also ``rouge_recall``, ``text_entropy`` and ``text_words``, of greedy
    text.
    """

    averaged: ClassVar[Mapping[str, Metric]] = {
        "probability": Metric(
            "Mean over a request's answers of exp(-mean loss of their tokens).", "0 to 1", "reference"
        ),
        "truth_prob": Metric(
            "Mean of 1 / (1 + truth ratio) = p / (p + geometric mean of the wrong answers' p), all in other words: "
            "above 0.5 the right answer is likelier.",
            "0 to 1",
            "reference",
        ),
        "rouge_recall": Metric(
            "ROUGE-L recall of greedy text against a request's answers; of words as they are, or of stems "
            "(`objective.answers.stemmer`).",
            "0 to 1",
            "reference",
        ),
        "text_entropy": Metric(
            "RWKU's fluency: entropy of the two- and three-word sequences of greedy answers, (2/3 H_2 + 4/3 H_3) / 2. "
            "Text that repeats itself has little; so have short answers, hence beside the reference.",
            "bits",
            "reference",
        ),
        "text_words": Metric("Mean number of words of greedy answers: whether they ramble.", "words", "reference"),
        "exact_memorisation": Metric(
            "Share of the tokens of a request's answers that are the most likely ones, given the true ones before "
            "them.",
            "share",
            "reference",
        ),
        "extraction_strength": Metric(
            "1 - k / L over a request's answers: k tokens of L suffice for the rest to be the most likely.",
            "0 to 1",
            "reference",
        ),
    }
    undefined: ClassVar[str] = "no row has wrong answers"
    retained: ClassVar[int] = 60
    follows_requests: ClassVar[bool] = True

    def __init__(
        self, text: Text, responses: Callable[[torch.Tensor, Batch], Scored], config: AnswersConfig | None = None
    ) -> None:
        """Take the source's text, what picks the positions of answers out of logits ``[B, T, V]``, and what to record.

        Raises:
            ConfigError: stems are wanted, and nltk is not installed.
        """
        self._text, self._responses, self._config = text, responses, config or AnswersConfig()
        self._stem = porter() if self._config.stemmer else None

    @override
    def longest_row(self, source: Source) -> int:
        makes_text = "text" in self._config.records and self._text.perturbed is not None
        most = self._config.tokens if makes_text else None
        return 0 if most is None else int(prompt_lengths(source.x).max()) + most

    @override
    def tests_are_non_members(self, source: Source) -> bool:
        """In text without questions; questions about what was learned are no unseen text."""
        has_questions = int((source.x[:, 1] == GIVEN).sum(1).max()) != 1
        return self._text.holdout is None and not has_questions

    @override
    @torch.inference_mode()
    def records(self, predict: Predict, batch: Batch) -> dict[str, np.ndarray]:
        text = self._text
        records = self._of_tokens(predict, batch)
        if text.paraphrased is None or text.perturbed is None:
            return records
        if "wrong" in self._config.records:
            records |= self._beside_wrong(predict, batch, records["loss"], text.paraphrased, text.perturbed)
        return records | (self._of_text(predict, batch) if "text" in self._config.records else {})

    def _beside_wrong(
        self, predict: Predict, batch: Batch, loss: np.ndarray, paraphrased: torch.Tensor, perturbed: torch.Tensor
    ) -> dict[str, np.ndarray]:
        """Return how likely answers are beside wrong ones; NaN where there are none."""
        text, records, ids = self._text, dict[str, np.ndarray](), batch.ids.cpu()
        right = self._losses(predict, batch, paraphrased[ids])
        counts = text.wrong_counts(ids)
        wrong = np.full((len(batch), perturbed.shape[1]), np.inf, dtype=np.float32)
        for j in range(counts.max()):
            at = np.flatnonzero(counts > j)
            having = torch.from_numpy(at)
            wrong[at, j] = self._losses(predict, batch.rows(having.to(batch.x.device)), perturbed[ids[having], j])
        has_wrong = counts > 0
        ratios = [truth_ratio(r, w[:n].tolist()) for r, w, n in zip(right, wrong, counts, strict=True) if n]
        for name, values in (
            ("truth_ratio", ratios),
            ("truth_prob", truth_probability(np.array(ratios))),
            ("choice", choice_probability(loss[has_wrong], wrong[has_wrong])),
        ):
            records[name] = np.full(len(batch), np.nan, dtype=np.float32)
            records[name][has_wrong] = values
        return records

    def _of_text(self, predict: Predict, batch: Batch) -> dict[str, np.ndarray]:
        """Return what greedy answers are like."""
        tokenizer, stem = self._text.tokenizer, self._stem
        texts = greedy(predict, batch, tokenizer, self._config.tokens)
        true = [tokenizer.decode(first_answer(x)) for x in batch.x]  # greedy text goes on from the first prompt
        recall = [rouge_l(words(t, stem), words(g, stem))[0] for t, g in zip(true, texts, strict=True)]
        said = [words(g) for g in texts]
        numbers = {"rouge_recall": recall, "text_entropy": map(ngram_entropy, said), "text_words": map(len, said)}
        return {name: np.fromiter(values, dtype=np.float32, count=len(said)) for name, values in numbers.items()}

    @override
    @torch.inference_mode()
    def held_out(self, predict: Predict, like: Batch, batch_size: int) -> dict[str, np.ndarray]:
        """Return the numbers that membership attacks need, of rows that were never taught."""
        if self._text.holdout is None or not len(self._text.holdout):
            return {}
        x = self._text.holdout.to(like.x.device)
        parts = [self._of_tokens(predict, as_batch(part, like)) for part in x.split(batch_size)]
        return {name: np.concatenate([p[name] for p in parts]) for name in ATTACKS}

    def _losses(self, predict: Predict, batch: Batch, x: torch.Tensor) -> np.ndarray:
        """Return the mean of -log p over each answer of other rows, ``[B]``."""
        others = replace(batch, x=x.to(batch.x.device))
        answers = self._responses(predict(others), others)
        return (answers.sums(answers.token_losses()) / answers.counts).cpu().numpy()

    def _of_tokens(self, predict: Predict, batch: Batch) -> dict[str, np.ndarray]:
        answers = self._responses(predict(batch), batch)
        log_all = precise(answers.logits).log_softmax(1)
        p = log_all.exp()
        mean = (p * log_all).sum(1)
        variance = (p * log_all.square()).sum(1) - mean.square()
        log_p = log_all.gather(1, answers.targets.unsqueeze(1)).squeeze(1)
        hits = answers.logits.argmax(1) == answers.targets
        ends = np.cumsum(np.bincount(answers.rows.cpu().numpy(), minlength=len(batch)))[:-1]
        of_rows = [np.split(v.cpu().numpy(), ends) for v in (log_p, mean, variance, hits, answers.targets)]
        table = []
        for likelihoods, expected, spread, hit, ids in zip(*of_rows, strict=True):
            loss = float(-likelihoods.mean()) if len(likelihoods) else 0.0
            body = slice(0, max(1, len(likelihoods) - 1))  # all but the end token
            units = normalised(likelihoods[body], expected[body], spread[body])
            table.append(
                (
                    loss,
                    float(np.exp(-loss)),
                    loss / len(zlib.compress(self._text.tokenizer.decode(ids.tolist()).encode())),
                    exact_memorisation(hit[body]),
                    extraction_strength(hit[body]),
                    min_k(likelihoods[body], MIN_K),
                    min_k(units, MIN_K),
                )
            )
        columns = zip(*table, strict=True)
        return {name: np.array(values, dtype=np.float32) for name, values in zip(_OF_TOKENS, columns, strict=True)}
