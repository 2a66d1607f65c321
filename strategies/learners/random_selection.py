"""Random selection: train on a uniform draw from everything so far; what every selection must be held against."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from strategies.base import Outcome
from strategies.learners._selection import Chosen, Selection, SelectionConfig
from strategies.outcome import Draw
from strategies.parts.model import FlatModel
from streams.data import Data
from streams.randomness import Key


class Config(SelectionConfig):
    """Options of `random-selection`."""


@final
class RandomSelection(Selection):
    """Draws without replacement, by name: samples that are not drawn leave no trace."""

    trains_on = "draw"
    idle_state = {"derived": "a draw by chance derives from no sample"}
    name: ClassVar[str] = "random-selection"

    @override
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        drawn = np.zeros(len(data), dtype=bool)
        order = key.order(data.ids)
        drawn[order[allowed[order]][:budget]] = True
        return Chosen(Draw(data.ids, drawn), Outcome(), {})
