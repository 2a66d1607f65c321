"""Supermasks in superposition: weights stay random, every task learns which of them to use (a mask of one bit each)."""

from __future__ import annotations

from typing import final

from strategies.base import Setting
from strategies.isolated._answers import Inference
from strategies.isolated._subnetworks import SubnetworkConfig, Subnetworks


class Config(SubnetworkConfig):
    """Options of `supsup` (Wortsman et al. 2020, arXiv 2006.14769)."""

    inference: Inference = "enumerate"
    """How a sample's subnetwork is found where no task is told: `enumerate` tries all and takes the surest; `one-shot`
    and `binary` mix all masks and follow the slope of the entropy, once or by halves. Sample by sample."""


@final
class Supsup(Subnetworks):
    """Learns masks, never weights: nothing that one task does can reach another."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no mask."""
        super().__init__(config, setting, "nothing", inference=config.inference)
