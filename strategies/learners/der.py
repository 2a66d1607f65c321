"""DER: replay stored samples and keep the outputs the model had for them (Buzzega et al. 2020)."""

from __future__ import annotations

from typing import final

from pydantic import Field

from strategies.base import Setting
from strategies.learners._dark import DarkConfig, DarkExperience
from strategies.ranges import log


class Config(DarkConfig):
    """Options of `der` (dark experience replay; Buzzega et al. 2020, arXiv 2004.07211)."""

    alpha: float = Field(0.3, ge=0)
    """Weight of the squared difference between present and stored outputs, the mean over outputs."""


@final
class DER(DarkExperience):
    """Distils the past by stored outputs alone."""

    supports = frozenset({"classes", "numbers", "images"})
    ranges = {"alpha": log(0.03, 3.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting, config.alpha, 0.0)
