"""ExSSNeT: a mask for every task, and training of those weights in it that no other mask contains."""

from __future__ import annotations

from typing import Literal, final

from strategies.base import Setting
from strategies.isolated._subnetworks import Subnetworks, TrainedConfig
from strategies.ranges import log


class Config(TrainedConfig):
    """Options of `exssnet` (Yadav and Bansal 2023, arXiv 2210.10209)."""

    keep: Literal["shared", "private"] = "shared"
    """Where trained weights go. `shared` is the paper's: into the one network, where later tasks read them. `private`
    is ours: a task trains copies of all weights of its mask from their initial values and keeps them to itself. Nothing
    passes from task to task then, every deletion is exact at no cost, and a task takes 4 more bytes for each weight in
    its mask."""


@final
class Exssnet(Subnetworks):
    """Trains exclusive weights: what an older task computes with cannot change, and newer ones may read it."""

    supports = frozenset({"classes", "numbers"})
    ranges = {"density": log(0.02, 0.5)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no mask."""
        super().__init__(config, setting, "private" if config.keep == "private" else "free")
