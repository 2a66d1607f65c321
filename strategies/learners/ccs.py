"""CCS: coverage-centric selection: drop the hardest samples, draw the rest evenly over strata of difficulty."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from pydantic import Field
from typing_extensions import override

from strategies.learners._selection import Chosen, SurveyConfig, SurveyingSelection
from strategies.outcome import Draw, Selector
from strategies.parts.model import FlatModel
from strategies.parts.selection.coverage import coverage_draw
from strategies.ranges import linear
from streams.data import Data
from streams.randomness import Key


class Config(SurveyConfig):
    """Options of `ccs` (Zheng et al. 2023, arXiv 2210.15809)."""

    score: Selector = "el2n"
    """The difficulty. The paper's own choice, the area under the margin, needs the history of a training run; it tried
    EL2N, too."""
    hardest: float = Field(0.1, ge=0, lt=1)
    """beta: share of the pool with the highest difficulty that is never drawn. The paper tunes it."""
    strata: int = Field(50, ge=1)
    """Strata of equal width."""


@final
class CCS(SurveyingSelection):
    """Coverage of one score over the whole pool, without clusters."""

    config: Config
    supports = frozenset({"classes", "tokens"})
    name: ClassVar[str] = "ccs"
    ranges = {"hardest": linear(0.0, 0.5)}

    @override
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        config = self.config
        surveyed = self.look(data, model, key, (config.score,))
        open_ = np.flatnonzero(allowed)
        tails = (0.0, 100 * config.hardest)
        values = surveyed.scores[config.score][open_]
        drawn_positions, outside = coverage_draw(values, data.ids[open_], budget, key, config.strata, tails)
        drawn = np.zeros(len(data), dtype=bool)
        drawn[open_[drawn_positions]] = True
        return Chosen(Draw(data.ids, drawn, None, (config.score,)), surveyed.cost, {"outside_band": float(outside)})
