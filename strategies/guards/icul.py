"""ICUL: show the forgotten questions with other answers before every prompt; the weights never change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.guards._per_request import PerRequest
from strategies.guards._prompts import hashed_words, outputs_behind
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals, WrongAnswers
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.text import GIVEN, first_answer

DIMS = 512
"""Numbers that the tokens of prompts are hashed to, to find those that are alike."""


class Config(BaseConfig):
    """Options of `icul` (Pawelczyk et al. 2024, arXiv 2310.07579). It suppresses; it does not erase."""

    answers: Literal["wrong", "refusal"] = "wrong"
    """What stands behind a forgotten question: a wrong answer of the source (published: a flipped label), or a refusal;
    drawn once per sample."""
    shown: int | None = Field(None, ge=1)
    """Forgotten questions before a prompt, those most like it in words. null shows all, as published."""
    right: int = Field(4, ge=0)
    """Held-out questions with right answers behind them (published: 2 to 6)."""
    context: int = Field(512, ge=8)
    """Most tokens of a row with what is shown; where it would be longer, what stands first is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: int64 ``[n]``, the samples it names.
        examples: their questions with other answers, token ids.
        vectors: float32 ``[n, DIMS]``, the questions' words.
        derived: the same ids.
    """

    request: str
    ids: np.ndarray
    examples: tuple[tuple[int, ...], ...]
    vectors: torch.Tensor
    derived: np.ndarray


@final
class ICUL(PerRequest[_Request]):
    """Questions of the forgotten with other answers, then right ones, then the prompt. It keeps these questions."""

    config: Config
    supports = frozenset({"tokens"})
    component = "questions"

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request.

        Raises:
            ConfigError: the source has no other answers, or too few questions that are never taught.
        """
        super().__init__(config, setting)
        text = self._objective.needed_text("guard: 'icul'")
        self._newline = text.tokenizer.encode("\n")
        self._answers: Refusals | WrongAnswers
        if config.answers == "refusal":
            self._answers = Refusals(self._objective, setting.key / "icul")
        else:
            self._answers = WrongAnswers(self._objective, setting.key / "icul", true_too=False)
        questions = [] if text.shown is None else [x for x in text.shown if int((x[1] == GIVEN).sum()) > 1]
        if len(questions) < config.right:
            raise ConfigError(
                f"guard.right: {config.right} questions that are never taught are wanted, and the source has "
                f"{len(questions)}. Lower it, or give the source some (people: holdout)."
            )
        self._right = [self._example(x) for x in questions[: config.right]]

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def of_some(self, kept: _Request, stays: np.ndarray) -> _Request:
        """Drop the questions of what is back."""
        ids, vectors = kept.ids[stays], kept.vectors[torch.from_numpy(stays)]
        examples = tuple(e for e, s in zip(kept.examples, stays, strict=True) if s)
        return replace(kept, ids=ids, derived=ids, examples=examples, vectors=vectors)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Note the questions, each with another answer; nothing is trained."""
        forget_set = door.forget_set()
        batch = forget_set.all()
        other = self._answers.put(batch, self._answers.drawn(batch, 0))
        examples = tuple(self._example(x) for x in other.x)
        ids = forget_set.ids.copy()
        self.keep(_Request(request.name, ids, examples, hashed_words(batch.x, DIMS), ids))
        most = [e for r in self._requests for e in r.examples][-(self.config.shown or 0) :]
        left = self._fitting(most, int((batch.x[:, 1] > 0).sum(1).max()))
        left_out = 1 - max(0, len(left) - len(self._right)) / len(most)
        return Outcome(exactness="none").noted(shown_questions=float(len(most)), shown_left_out=left_out)

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs behind the examples."""
        if not self._requests:
            return self._objective.outputs(model, batch)
        shown = self._shown(batch)
        lengths = (batch.x[:, 1] > 0).sum(1).tolist()
        prefixes = [self._prefix(e, length) for e, length in zip(shown, lengths, strict=True)]
        return outputs_behind(self._objective, model, batch, prefixes)

    @override
    def told(self, kept: _Request) -> State:
        return {"examples": [list(e) for e in kept.examples], "vectors": kept.vectors}

    @override
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> _Request:
        return _Request(request, ids, tuple(tuple(e) for e in state["examples"]), state["vectors"], derived)

    def _example(self, row: torch.Tensor) -> tuple[int, ...]:
        """Return a question with its answer, without the end token, and a line break."""
        prompt = row[0][row[1] == GIVEN].tolist()[1:]
        return (*prompt, *first_answer(row)[:-1], *self._newline)

    def _shown(self, batch: Batch) -> list[list[tuple[int, ...]]]:
        """Return the forgotten questions that stand before each prompt, in the order in which they came."""
        examples = [e for r in self._requests for e in r.examples]
        if self.config.shown is None or self.config.shown >= len(examples):
            return [examples] * len(batch)
        vectors = torch.cat([r.vectors for r in self._requests])
        alike = (hashed_words(batch.x, DIMS) @ vectors.T).argsort(dim=1, descending=True, stable=True)
        return [[examples[i] for i in sorted(row)] for row in alike[:, : self.config.shown].tolist()]

    def _prefix(self, forgotten: list[tuple[int, ...]], length: int) -> list[int]:
        """Return what stands before a row of so many tokens, as far as there is room."""
        return [token for part in self._fitting(forgotten, length) for token in part]

    def _fitting(self, forgotten: list[tuple[int, ...]], length: int) -> list[tuple[int, ...]]:
        """Return the examples that fit before a row of so many tokens: of those in order, the last ones."""
        parts = [*forgotten, *self._right]
        fits = np.cumsum([len(p) for p in parts[::-1]]) <= self.config.context - length
        return parts[len(parts) - int(fits.sum()) :]
