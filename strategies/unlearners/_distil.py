"""What unlearners with a teacher share: a frozen copy of the model, and its logits under the student's task."""

from __future__ import annotations

import torch

from strategies.objectives._base import ClassObjective
from strategies.parts.model import FlatModel
from streams.data import Batch


def taught(objective: ClassObjective, teacher: FlatModel, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the teacher's logits ``[B, K]``, without gradient, with the same outputs forbidden as in `outputs`."""
    with torch.no_grad():
        logits = objective.logits(teacher, batch)
    return logits.masked_fill(torch.isinf(outputs), float("-inf"))
