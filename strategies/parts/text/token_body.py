"""What the body of a language model gives beside its last hidden states, for methods and audits that look inside."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Prefixes(ABC):
    """Rows that were passed, and what their next tokens need of them (keys and values of attention)."""

    @abstractmethod
    def go_on(self, rows: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Pass one more token of some rows, and keep those rows alone; return their hidden states ``[B, width]``.

        Args:
            rows: int64 ``[B]``, which of the rows that are kept; one may be there twice.
            tokens: int ``[B, 1]``.
            positions: int64 ``[B]``, where each stands in its row.
        """


class TokenBody(nn.Module, ABC):
    """Rows of tokens to hidden states. Rows are padded on the right, and a state depends on what is left of it alone.

    Any module can be the body of a language model. What is more than outputs (audits of inner layers, images beside
    text) works with one that derives from this.
    """

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The blocks, from the bottom up."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Most tokens of a row."""

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that its weights are from, whose tokeniser they know; None of weights that are random."""
        return None

    @property
    def image_tokens(self) -> int:
        """How many positions of a row an image takes; 0 if it sees none."""
        return 0

    @abstractmethod
    def embedded(self, x: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the first block reads, ``[B, T, width]``, up to the last token of the longest row.

        Args:
            x: tokens and what they are, int ``[B, 2, L]`` (see `streams.text`).
            images: uint8 ``[B, M, C, H, W]``, or None.
        """

    @abstractmethod
    def states(self, x: torch.Tensor, images: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Return the hidden states ``[B, T, width]`` of the embedding and behind every block, from the bottom up."""

    def normed(self, states: torch.Tensor) -> torch.Tensor:
        """Return states ``[..., width]`` of an inner block as the head would read them: through the final norm."""
        return states

    def can_go_on(self, length: int) -> bool:
        """Whether text of so many tokens is made by passing each token once (`begin`); if not, whole rows pass."""
        return False

    def begin(self, x: torch.Tensor) -> tuple[torch.Tensor, Prefixes]:
        """Return the hidden state ``[B, width]`` of the last token of rows ``[B, 2, L]``, and what goes on from there.

        Raises:
            NotImplementedError: it cannot go on.
        """
        raise NotImplementedError

    @abstractmethod
    def forward(self, x: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        """Return the hidden states ``[B, T, width]`` that the head reads."""
