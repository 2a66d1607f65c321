"""CPT + KL: continual pretraining, held to what the model said before the domain (plain self-distillation)."""

from __future__ import annotations

from typing import ClassVar, final

from typing_extensions import override

from strategies.learners._original import HeldToOriginal, OriginalConfig
from strategies.ranges import log


class Config(OriginalConfig):
    """Options of `cpt-kl`."""


@final
class CPTKL(HeldToOriginal):
    """Adds lambda KL(teacher || model) of every token; it pulls back from new facts as much as from new style."""

    config: Config
    supports = frozenset({"tokens"})
    name: ClassVar[str] = "cpt_kl"
    ranges = {"strength": log(0.1, 10.0)}

    @property
    @override
    def swaps(self) -> bool:
        """Plain distillation."""
        return False
