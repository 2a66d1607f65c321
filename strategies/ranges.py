"""Ranges in which options of methods are tuned: every method's file declares its own, and a study may name others."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import model_validator

from streams.config import Config

Scale = Literal["linear", "log", "log-to-one"]


class Range(Config):
    """Numbers from low to high; whole numbers if both bounds are (1, where 1.0 is meant as any number)."""

    low: int | float
    """Lowest value."""
    high: int | float
    """Highest value."""
    scale: Scale = "linear"
    """How values are spread: evenly (linear), evenly in their logarithm (log), or evenly in the logarithm of 1 - value
    (log-to-one), for what matters near 1."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, not {self.low}")
        if self.scale == "log-to-one" and (self.high >= 1 or self.is_whole):
            raise ValueError(f"log-to-one needs fractions below 1, not {self.low} to {self.high}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> int | float:
        """Return the value at a share (0 to 1) of the way from low to high, on its scale.

        >>> log(0.001, 0.1).at(0.5), Range(low=1, high=10).at(0.999), to_one(0.5, 0.995).at(0.5)
        (0.01, 10, 0.95)
        """
        if self.is_whole:
            # every whole number has a cell of the same width
            position = _between(self.low - 0.5, self.high + 0.5, share, self.scale == "log")
            return int(min(max(round(position), self.low), self.high))
        if self.scale == "log-to-one":
            return self.rounded(1 - _between(1 - self.low, 1 - self.high, share, True))
        return self.rounded(_between(self.low, self.high, share, self.scale == "log"))

    def rounded(self, value: float) -> float:
        """Return a value of the range with three digits (of 1 - value, where the scale is log-to-one)."""
        short = 1 - _three_digits(1 - value) if self.scale == "log-to-one" else _three_digits(value)
        return min(max(round(short, 15), float(self.low)), float(self.high))

    def has(self, value: object) -> bool:
        """Whether a value lies in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.is_whole or value == int(value))

    def in_words(self) -> str:
        """Return it as people read it.

        >>> log(1e-5, 0.1).in_words(), Range(low=1, high=20).in_words()
        ('1e-05 to 0.1 (log)', '1 to 20')
        """
        return f"{self.low:g} to {self.high:g}" + ("" if self.scale == "linear" else f" ({self.scale})")


Choices = tuple[object, ...]
"""Values to choose among."""
Space = Range | Choices


def log(low: int | float, high: int | float) -> Range:
    """Return a range on a logarithmic scale."""
    return Range(low=low, high=high, scale="log")


def linear(low: int | float, high: int | float) -> Range:
    """Return a range on a linear scale."""
    return Range(low=low, high=high)


def to_one(low: float, high: float) -> Range:
    """Return a range on a scale that is logarithmic in 1 - value."""
    return Range(low=low, high=high, scale="log-to-one")


def in_words(space: Space) -> str:
    """Return a range or choices as people read it.

    >>> in_words((16, 64))
    '16 | 64'
    """
    return space.in_words() if isinstance(space, Range) else " | ".join(map(str, space))


def _between(low: float, high: float, share: float, is_log: bool) -> float:
    if is_log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


LR = log(1e-5, 1e-1)
"""Learning rates of image-sized models, as Deep Unlearn searches them (arXiv 2410.01276)."""
EPOCHS = linear(1, 20)
"""Passes; the whole budget of Deep Unlearn is a tenth to a fifth of training."""
TRAINED: dict[str, Space] = {"lr": LR, "epochs": EPOCHS, "batch_size": (16, 64, 256)}
"""What everything that trains by SGD declares. Weight decay is left out: with high rates it destroys the weights."""
TRAINED_ON_TEXT: dict[str, Space] = {"lr": log(1e-5, 1e-3), "epochs": linear(1, 10)}
"""The same for language models, with AdamW and a million weights (ours; of a billion weights 1e-6 to 1e-4)."""
PAIRED_ON_TEXT: dict[str, Space] = TRAINED_ON_TEXT | {"retain_weight": log(0.1, 10.0)}
"""The same with a loss on retained data beside that on the forget set (ours)."""
