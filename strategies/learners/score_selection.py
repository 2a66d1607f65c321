"""Score selection: train on the highest, lowest or middle values of one score, from everything so far."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from typing_extensions import override

from strategies.learners._selection import Chosen, SurveyConfig, SurveyingSelection
from strategies.outcome import Draw, Selector
from strategies.parts.model import FlatModel
from streams.data import Data
from streams.randomness import Key

Take = Literal["highest", "lowest", "middle"]


class Config(SurveyConfig):
    """Options of `score-selection`: single selectors, without clusters."""

    score: Selector = "el2n"
    """perplexity, el2n (Paul et al. 2021), entropy, grand (Paul et al. 2021), image-grounding, or context-grounding."""
    take: Take = "highest"
    """Which end of the score, or the samples nearest to its median (Marion et al. 2023 found the middle of perplexity
    best)."""


def ranked(values: np.ndarray, ids: np.ndarray, take: Take, key: Key) -> np.ndarray:
    """Return positions, best first; ties are broken by name.

    Args:
        values: ``[n]``; those that are not finite come last.
        ids: int64 ``[n]``.
        take: which values are best.
        key: names the ties.
    """
    if take == "middle":
        finite = np.isfinite(values)
        values = -np.abs(values - (np.median(values[finite]) if finite.any() else 0.0))
    cost = values if take == "lowest" else -values
    return np.lexsort((key.priorities(ids), np.where(np.isfinite(cost), cost, np.inf)))


@final
class ScoreSelection(SurveyingSelection):
    """One score, computed anew before every experience, decides."""

    config: Config
    supports = frozenset({"classes", "tokens"})
    name: ClassVar[str] = "score-selection"

    @override
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        surveyed = self.look(data, model, key, (self.config.score,))
        order = ranked(surveyed.scores[self.config.score], data.ids, self.config.take, key)
        drawn = np.zeros(len(data), dtype=bool)
        drawn[order[allowed[order]][:budget]] = True
        return Chosen(Draw(data.ids, drawn, None, (self.config.score,)), surveyed.cost, {})
