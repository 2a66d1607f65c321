"""Outcome: what one event did and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

Exactness = Literal["bits", "law", "certified", "none"]
GRADES: tuple[Exactness, ...] = ("none", "certified", "law", "bits")
"""From the weakest to the strongest."""
Selector = Literal["perplexity", "el2n", "entropy", "grand", "image-grounding", "context-grounding"]
"""By what samples are chosen (see `parts/selection/selectors.py`). context-grounding, for text alone, is ours."""
SELECTORS: tuple[Selector, ...] = get_args(Selector)
"""All of them; their places stand for them in tables of results."""


def weaker(one: Exactness | None, other: Exactness | None) -> Exactness | None:
    """Return the grade of two things together: the lower one; what is not graded promises nothing.

    >>> weaker("bits", "law"), weaker("none", "bits")
    ('law', 'none')
    """
    return min(one, other, key=(None, *GRADES).index)


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What the grade ``certified`` states: how far what is published can tell a life from that of a reference.

    For every event E, P(published in E) <= e^epsilon P(the reference's in E) + delta, and the other way round.

    Attributes:
        epsilon, delta: what is promised of every request whose account is open.
        mu: the same as a budget: of Gaussian privacy, or the residual over the noise that a theorem allows.
        covers: what the other side sees: published weights while the state stays secret, or the state itself.
        scope: all publications since the request (transcript), or the last one.
        reference: the life without all that was deleted by then, or without this request alone.
        adaptive: whether requests may be chosen by looking at publications.
        basis: what the residual rests on (``measured``, or a theorem by the name of who proved it).
        residual, reference_residual: bounds on the distances of both lives' noise-free weights to the minimiser of what
            is live; where the basis compares the two lives, their sum bounds the distance between them.
        sigma: standard deviation of the noise.
        spent: of every request whose account is open, the mu that it has used up.
        publications: of every such request, how many its account was charged for.
        steps: Newton or gradient steps of this event.
        resolved: whether the event was solved anew, to the solver's tolerance.
        exhausted: requests whose budget was exceeded: nothing is promised of them any more.
        high_probability: None where it holds for all data; else the share of data sets for which it may fail.
    """

    epsilon: float
    delta: float
    mu: float
    covers: Literal["published", "state"]
    scope: Literal["transcript", "last"]
    reference: Literal["all-deleted", "per-request"]
    adaptive: bool
    basis: str
    residual: float
    reference_residual: float
    sigma: float
    spent: dict[str, float]
    publications: dict[str, int]
    steps: int
    resolved: bool
    exhausted: tuple[str, ...] = ()
    high_probability: float | None = None


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
            (equal in distribution), ``certified`` (what is published can hardly tell: see `guarantee`) or ``none``;
            None for a learn event.
        guarantee: what the grade ``certified`` states, after every event of a strategy that gives it.
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
    guarantee: Guarantee | None = None

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
            other.guarantee or self.guarantee,
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
