"""ExSSNeT: a mask for every task, and training of those weights in it that no other mask contains."""

from __future__ import annotations

from typing import final

from pydantic import Field

from strategies.base import Setting
from strategies.isolated._subnetworks import SubnetworkConfig, Subnetworks


class Config(SubnetworkConfig):
    """Options of `exssnet` (Yadav and Bansal 2023, arXiv 2210.10209)."""

    weight_epochs: int | None = Field(None, ge=1)
    """Passes over an experience while its weights are trained; null takes `training.epochs`."""
    weight_lr: float = Field(0.01, gt=0)
    """Learning rate of the weights."""


@final
class Exssnet(Subnetworks):
    """Trains exclusive weights: what an older task computes with cannot change, and newer ones may read it."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no mask."""
        super().__init__(config, setting, "free", (config.weight_epochs, config.weight_lr))
