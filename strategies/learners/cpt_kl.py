"""CPT + KL: continual pretraining, held to what the model said before the domain (plain self-distillation)."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from strategies.learners._original import HeldToOriginal, OriginalConfig
from strategies.objectives.causal_lm import Scored
from strategies.parts.swap import token_divergences


class Config(OriginalConfig):
    """Options of `cpt-kl`."""


@final
class CPTKL(HeldToOriginal):
    """Adds lambda KL(teacher || model) of every token; it pulls back from new facts as much as from new style."""

    config: Config
    name: ClassVar[str] = "cpt_kl"

    def distance(self, student: Scored, teacher: Scored) -> torch.Tensor:
        """Return KL(teacher || model) at every position."""
        return token_divergences(student.logits, teacher.logits)
