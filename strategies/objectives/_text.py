"""What objectives over rows of tokens give beside: the positions that count, and the source's tokeniser and answers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from typing_extensions import override

from strategies.objectives._base import Objective, Predicts, Scored
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.text import Text

Tokens = Literal["all", "answer"]


class TextObjective(Objective):
    """One that predicts tokens of rows; see `streams.text` for what a row is. Outputs are logits ``[B, T, V]``."""

    predicts: ClassVar[Predicts] = "tokens"
    by_class: ClassVar[bool] = False
    text: Text | None = None
    """The source's tokeniser, refusals and wrong answers."""
    loss_on: Tokens = "answer"
    """Which tokens are trained on: those of answers, or those of prompts too."""
    forget_on: Tokens = "answer"
    """Which tokens unlearners work on."""

    trains: Tokens | None = None
    """Which tokens count in `losses` as they are; None where they are those of evaluation."""

    @abstractmethod
    def on(self, tokens: Tokens) -> TextObjective:
        """Return the objective whose losses are trained on, over these tokens."""

    @abstractmethod
    def scored(self, outputs: torch.Tensor, batch: Batch) -> Scored:
        """Return the positions that count in `losses`."""

    @abstractmethod
    def reduce(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return per-row numbers ``[B]`` whose mean is minimised, given sums and counts of tokens."""

    @override
    def training_on(self, data: Data) -> TextObjective:
        return self if self.trains else self.on(self.loss_on)

    @override
    def for_unlearning(self) -> TextObjective:
        return self.on(self.forget_on)

    def needed_text(self, method: str) -> Text:
        """Return the source's tokeniser and answers, for a method that cannot do without.

        Raises:
            ConfigError: there are none.
        """
        if self.text is None:
            raise ConfigError(f"{method} needs the tokeniser of its texts; use a source of text.")
        return self.text
