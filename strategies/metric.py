"""What a number means: every module that makes numbers says it of its own, in a mapping `METRICS` from names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "zero", "reference", "neither"]
"""Which way is better. zero: the closer to 0. reference: the closer to the same number of the retrained reference."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        meaning: what it is, as one sentence. Of the score of an objective the end of one ("share of samples that are
            classified right"): it is completed by what the score is taken over.
        unit: of the value; a ``share`` lies between 0 and 1.
        better: which way.
        ideal: the value that cannot be improved, where there is one.
    """

    meaning: str
    unit: str
    better: Better
    ideal: float | None = None
