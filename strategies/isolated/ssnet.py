"""SSNeT: a mask for every task, and training of all weights in it, also those that older masks contain."""

from __future__ import annotations

from typing import final

from strategies.base import Setting
from strategies.isolated._subnetworks import Subnetworks, TrainedConfig
from strategies.ranges import log


class Config(TrainedConfig):
    """Options of `ssnet` (the non-exclusive form in Yadav and Bansal 2023, arXiv 2210.10209)."""


@final
class Ssnet(Subnetworks):
    """Trains all weights of a mask: older tasks that share them are changed."""

    supports = frozenset({"classes", "numbers"})
    ranges = {"density": log(0.02, 0.5)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no mask."""
        super().__init__(config, setting, "mask")
