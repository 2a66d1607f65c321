"""DER++: dark experience replay, with the labels of stored samples too (Buzzega et al. 2020)."""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from strategies.base import Setting
from strategies.learners._dark import DarkConfig, DarkExperience
from strategies.ranges import log


class Config(DarkConfig):
    """Options of `der-plus-plus` (DER++; Buzzega et al. 2020, arXiv 2004.07211)."""

    alpha: float = Field(0.1, ge=0)
    """Weight of the squared difference between present and stored outputs, the mean over outputs."""
    beta: float = Field(0.5, ge=0)
    """Weight of the loss on the labels of a second, independent draw."""
    draws: Literal["apart", "together"] = "apart"
    """How the two draws pass a network with batch norm. apart: one after the other, each normalised by itself, as in
    Mammoth (a draw of a single sample goes with the other). together: in one forward, normalised as one batch. Without
    batch norm both compute the same."""


@final
class DERPlusPlus(DarkExperience):
    """Distils the past by stored outputs and by labels."""

    supports = frozenset({"classes", "numbers", "images"})
    ranges = {"alpha": log(0.03, 3.0), "beta": log(0.05, 5.0)}
    becomes = {"der": {"beta": 0.0, "draws": "apart"}}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting, config.alpha, config.beta, config.draws == "together")
