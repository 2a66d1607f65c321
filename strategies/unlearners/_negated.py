"""What unlearners share that learn the forget set even better, and step to the other side of where they began."""

from __future__ import annotations

from collections.abc import Callable

from strategies.outcome import Outcome
from strategies.parts.model import FlatModel


def negated(model: FlatModel, alpha: float, train: Callable[[], Outcome]) -> Outcome:
    """Train a model in place, then set it to theta - alpha (theta_trained - theta); return what the training cost.

    Buffers (batch norms) return to what they were.
    """
    before = model.state_dict()
    start = model.parameters.clone()
    outcome = train()
    moved = model.parameters - start
    model.load_state_dict(before)
    model.parameters.add_(moved, alpha=-alpha)
    return outcome
