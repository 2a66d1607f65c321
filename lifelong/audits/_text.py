"""What audits of text share: which rows are asked, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, get_args

import numpy as np
import torch

from lifelong.audits._base import Audit
from lifelong.config.run import ReferenceKind
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.parts.model import FlatModel
from strategies.parts.text.generation import as_batch
from strategies.parts.text.token_body import TokenBody
from streams.data import Batch
from streams.randomness import Key
from streams.text import ANSWER, GIVEN, Text

SAMPLES = 100
"""Rows of a request that are asked at most, drawn by name (MUSE)."""
CONTINUATION, ANSWER_TOKENS = 128, 32
"""Tokens that are made at most: of a text that was begun, and of an answer (MUSE)."""

Pair = tuple[list[int], list[int]]
"""Token ids of a row's prompt, without the start token, and of its answer."""


def token_body_of(model: FlatModel | None) -> TokenBody | None:
    """Return the body of a language model whose blocks are known; None of any other, or of no single model."""
    body = None if model is None else model.network.body
    return body if isinstance(body, TokenBody) else None


class TextAudit(Audit):
    """Asks about rows of text. Every number is a mean over (at most `SAMPLES`) rows of one request."""

    needs_text: ClassVar[bool] = True
    beside: ClassVar[tuple[ReferenceKind, ...]] = tuple(k for k in get_args(ReferenceKind) if k != "no-op")

    @property
    def text(self) -> Text:
        """The source's tokeniser, and what it knows of its rows."""
        assert self.source.text is not None
        return self.source.text

    def asked(self, positions: np.ndarray) -> np.ndarray:
        """Return at most `SAMPLES` positions, drawn by name: the same ones for every model."""
        if len(positions) <= SAMPLES:
            return positions
        return np.sort(positions[(Key(0) / "asked").order(self.plan.ids[positions])[:SAMPLES]])

    def questions(self, request: RequestPlan) -> np.ndarray:
        """Return positions of the questions about what a request deletes: in words that were not trained, if any."""
        return self.asked(request.forget_test if len(request.forget_test) else request.forget)

    def pairs(self, positions: np.ndarray) -> list[Pair]:
        """Return prompts and answers."""
        return [prompt_and_answer(x) for x in self.rows_of(self.plan.ids[positions])]

    def rows_of(self, ids: np.ndarray) -> torch.Tensor:
        """Return rows of the source by their ids, int ``[n, 2, L]``."""
        return self.source.x[torch.from_numpy(ids)]

    def are_questions(self, positions: np.ndarray) -> np.ndarray:
        """Return which rows have a prompt, bool ``[n]``."""
        return (self.rows_of(self.plan.ids[positions])[:, 1] == GIVEN).sum(1).numpy() > 1

    def fact_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return a number of the fact that each row tells: whom it is about, what of them, and the value."""
        values = self.text.values
        number = self.source.user_ids[ids] * self.source.num_classes + self.source.class_ids[ids]
        return number if values is None else number * (int(values.max()) + 1) + values.numpy()[ids]

    def made(self, x: torch.Tensor) -> Batch:
        """Return rows that are in no source as a batch."""
        like = self.like()
        return as_batch(x.to(like.x.device), like)

    def like(self) -> Batch:
        """Return one row of the source, for device and types."""
        return self.samples.batch(np.zeros(1, dtype=np.int64))

    def room(self, strategy: Strategy) -> int:
        """Return how many tokens fit into a row; without a single model, as many as the longest row."""
        body = token_body_of(strategy.network())
        return max(self.source.x.shape[2], CONTINUATION) if body is None else body.context

    def likely(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return exp(-mean loss of the answer's tokens) of every row, ``[B]``."""
        return self.setting.objective.losses(outputs, batch).neg().exp()

    def decoded(self, ids: Sequence[int]) -> str:
        """Return what tokens say."""
        return self.text.tokenizer.decode(ids)


def prompt_and_answer(x: torch.Tensor) -> Pair:
    """Return the token ids of a row's prompt, without the start token, and of its answer."""
    return x[0][x[1] == GIVEN].tolist()[1:], x[0][x[1] == ANSWER].tolist()


def mean(values: np.ndarray) -> float:
    """Return the mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
