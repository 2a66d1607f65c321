"""Outcome: what one event did and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

Exactness = Literal["bits", "law", "none"]
Selector = Literal["perplexity", "el2n", "entropy", "grand", "image-grounding", "context-grounding"]
"""By what samples are chosen (see `parts/selection/selectors.py`). context-grounding, for text alone, is ours."""
SELECTORS: tuple[Selector, ...] = get_args(Selector)
"""All of them; their places stand for them in tables of results."""


def weaker(one: Exactness | None, other: Exactness | None) -> Exactness | None:
    """Return the grade of two things together: the lower one; what is not graded promises nothing.

    >>> weaker("bits", "law"), weaker("none", "bits")
    ('law', 'none')
    """
    return min(one, other, key=(None, "none", "law", "bits").index)


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """Which samples a strategy chose to train on, and by what.

    Attributes:
        pool: int64 ``[n]`` ids it chose from, ascending.
        drawn: bool ``[n]`` those it trains on.
        clusters: int64 ``[n]`` the group of each, where it makes groups.
        selectors: by which score it chose in each cluster; empty where it chose without.
    """

    pool: np.ndarray
    drawn: np.ndarray
    clusters: np.ndarray | None = None
    selectors: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LastDraw:
    """What a selection drew last and still keeps: a small retain set, for unlearners.

    Attributes:
        ids: int64, ascending.
    """

    ids: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one event did.

    Attributes:
        steps: optimizer steps.
        forward, backward: samples passed through the network, each way (a sample in k epochs counts k times).
        losses: named terms of the last epoch, means per sample.
        traits: numbers that the strategy tells of itself, by subject (``event`` for what was done, a unit, a layer,
            ``A > B`` for a pair of units, ``stream`` for the whole) and metric; they go into the table as they are.
        weights_erased: of a forget event: False where weights that derive from the request's samples were left as they
            were, and the request was served beside them, if at all.
        exactness: of a forget event: ``bits`` (the state is, bit for bit, that of a life without the data), ``law``
            (equal in distribution) or ``none``; None for a learn event.
        draw: of a learn event: what was chosen to train on, by strategies that choose.
    """

    steps: int = 0
    forward: int = 0
    backward: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    exactness: Exactness | None = None
    traits: dict[str, dict[str, float]] = field(default_factory=dict)
    draw: Draw | None = None
    weights_erased: bool = True

    def __add__(self, other: Outcome) -> Outcome:
        """Return both, one after the other; the later loss and the later trait of a name stand."""
        subjects = dict.fromkeys([*self.traits, *other.traits])
        return Outcome(
            self.steps + other.steps,
            self.forward + other.forward,
            self.backward + other.backward,
            self.losses | other.losses,
            other.exactness or self.exactness,
            {s: self.traits.get(s, {}) | other.traits.get(s, {}) for s in subjects},
            other.draw or self.draw,
            self.weights_erased and other.weights_erased,
        )

    @property
    def notes(self) -> dict[str, float]:
        """What the strategy tells of the event itself."""
        return self.traits.get("event", {})

    def graded(self, exactness: Exactness) -> Outcome:
        """Return this outcome with an exactness grade."""
        return replace(self, exactness=exactness)

    def traced(self, traits: dict[str, dict[str, float]]) -> Outcome:
        """Return this outcome with more traits; those of a subject that it has some of already are replaced."""
        return replace(self, traits=self.traits | traits)

    def noted(self, **notes: float) -> Outcome:
        """Return this outcome with these notes on the event in place of any others."""
        return self.traced({"event": notes})
