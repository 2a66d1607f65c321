"""LoRA: every experience changes the weights in low rank only, by factors of its own."""

from __future__ import annotations

from typing import final

from strategies.learners._lowrank import LowRankConfig, LowRankPlugin
from strategies.ranges import log


class Config(LowRankConfig):
    """Options of `lora` (Hu et al. 2021, arXiv 2106.09685), with new adapters in every experience.

    The product of an experience's factors is added to the weights when it ends, so that unlearners, ties and audits see
    plain weights. `model.lora` is something else: one adapter for the whole stream, beside weights that never move.
    """


@final
class LoRA(LowRankPlugin):
    """Trains the factors of W + (alpha / r) B A in the body's linear maps; heads of classes are trained in full."""

    config: Config
    name = "lora"
    ranges = {"rank": (4, 8, 16, 32), "alpha": log(4.0, 64.0)}
