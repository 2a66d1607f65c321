"""What a model can predict: what objectives say of themselves, and methods of what they support."""

from __future__ import annotations

from typing import Literal, get_args

Predicts = Literal["classes", "numbers", "tokens", "images"]
"""What a model predicts."""
EVERYTHING: frozenset[Predicts] = frozenset(get_args(Predicts))
