"""What the body of a language model gives beside its last hidden states, for methods and audits that look inside."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


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

    @abstractmethod
    def forward(self, x: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        """Return the hidden states ``[B, T, width]`` that the head reads."""
