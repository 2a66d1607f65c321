"""Supermasks in superposition: weights stay random, every task learns which of them to use (a mask of one bit each)."""

from __future__ import annotations

from typing import final

from strategies.base import Setting
from strategies.isolated._answers import Inference, Signal
from strategies.isolated._subnetworks import SubnetworkConfig, Subnetworks
from strategies.ranges import log
from streams.errors import ConfigError


class Config(SubnetworkConfig):
    """Options of `supsup` (Wortsman et al. 2020, arXiv 2006.14769)."""

    inference: Inference = "enumerate"
    """How a sample's subnetwork is found where there are no task labels: `enumerate` tries all and takes the surest;
    `one-shot` and `binary` mix all masks and follow the slope of a signal, once or by halves. Sample by sample."""
    signal: Signal = "entropy"
    """What `one-shot` and `binary` lower: the `entropy` of the outputs (H in the paper), or the log-sum-exp of all
    outputs through the `superfluous` ones alone (G), which needs `outputs` above the classes of any task."""


@final
class Supsup(Subnetworks):
    """Learns masks, never weights: nothing that one task does can reach another."""

    supports = frozenset({"classes", "numbers"})
    ranges = {"density": log(0.02, 0.5)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no mask.

        Raises:
            ConfigError: a signal is asked for that nothing follows, or that no output carries.
        """
        if config.signal == "superfluous" and config.inference == "enumerate":
            raise ConfigError("signal: superfluous has no use with inference: enumerate; take one-shot or binary.")
        if config.signal == "superfluous" and config.outputs is None:
            raise ConfigError("outputs: signal: superfluous needs more outputs than a task has classes; 100, say.")
        super().__init__(config, setting, "nothing", config.inference, config.signal)
