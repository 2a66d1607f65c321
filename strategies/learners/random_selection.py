"""Random selection: train on a uniform draw from everything so far, or from what is new, as a control of selections."""

from __future__ import annotations

from typing import ClassVar, Literal, final

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

    draw_from: Literal["pool", "new"] = "pool"
    """The pool of all samples so far, or what the experience brings alone: sequential training with the same budget."""


@final
class RandomSelection(Selection):
    """Draws without replacement, by name: samples that are not drawn leave no trace."""

    trains_on = "draw"
    idle_state = {"derived": "a draw by chance derives from no sample"}
    config: Config
    name: ClassVar[str] = "random-selection"

    @override
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        drawn = np.zeros(len(data), dtype=bool)
        if self.config.draw_from == "new":
            allowed = allowed & np.isin(data.ids, self.brought)
        order = key.order(data.ids)
        drawn[order[allowed[order]][:budget]] = True
        return Chosen(Draw(data.ids, drawn), Outcome(), {})
