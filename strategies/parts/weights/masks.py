"""Masks that outlive a request: which weights earlier requests were free to change, and where their thresholds lay."""

from __future__ import annotations

from typing import Any, final

import torch


@final
class MaskLog:
    """The union of the masks of all requests so far, and the thresholds of the first."""

    def __init__(self, like: torch.Tensor) -> None:
        """Start without a request; masks are as long as ``like [P]``."""
        self.used = torch.zeros_like(like, dtype=torch.bool)
        """Weights that some request was free to change, bool ``[P]``."""
        self.thresholds = like.new_zeros(0)
        """One for each tensor of weights, set by the first request; none before."""

    @property
    def is_first(self) -> bool:
        """Whether there was no request yet."""
        return not len(self.thresholds)

    def add(self, mask: torch.Tensor, thresholds: torch.Tensor) -> None:
        """Note a request's mask, bool ``[P]``, and its thresholds ``[T]``, of which those of the first count."""
        self.used = self.used | mask
        if self.is_first:
            self.thresholds = thresholds.clone()

    def state_dict(self) -> dict[str, Any]:
        """Return both, copied."""
        return {"used": self.used.clone(), "thresholds": self.thresholds.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put both back."""
        self.used, self.thresholds = state["used"].clone(), state["thresholds"].clone()
