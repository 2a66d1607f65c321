"""What score selection draws, given the scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from strategies.learners.score_selection import Config, ScoreSelection
from streams.data import Data
from streams.randomness import Key

SCORES = np.array([5.0, 4.5, 3.0, 2.0, 2.5, 0.0, np.nan])


@pytest.mark.parametrize(("take", "drawn"), [("highest", [2, 3]), ("lowest", [3, 5]), ("middle", [2, 3])])
def test_the_budget_is_spent_on_what_may_be_drawn(take: Any, drawn: list[int]) -> None:
    """The first of all may not be drawn here; the next ones take their places. The median is 2.75."""
    allowed = np.array([False, False, True, True, False, True, True])
    surveyed = SimpleNamespace(scores={"el2n": SCORES}, cost=None)
    chooser: Any = SimpleNamespace(look=lambda *asked: surveyed, config=Config(take=take))
    data = Data(np.arange(10, 17), torch.zeros(7, 1), torch.zeros(7, dtype=torch.long), None)
    chosen = ScoreSelection.choose(chooser, data, allowed, 2, None, Key(0))  # type: ignore[arg-type]
    assert np.flatnonzero(chosen.draw.drawn).tolist() == drawn
    assert (chosen.draw.pool.tolist(), chosen.draw.selectors) == (list(range(10, 17)), ("el2n",))
