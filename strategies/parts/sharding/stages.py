"""Chain: a model trained stage by stage, that can go back to before any stage.

What SISA (Bourtoule et al. 2021) does within one shard: each stage continues from the one before and leaves a
checkpoint. To delete a sample, go back to before the first stage that saw it, and train later ones again without it.
A stage is a pure function of the state before it, its samples and its name, so that the result is, bit for bit, what
would be there had the sample never come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch

from strategies.outcome import Outcome
from strategies.parts.sharding.deltas import decode, encode
from streams.data import Data
from streams.ledger import Door
from streams.randomness import Key

TrainStage = Callable[[np.ndarray, Data, Key], tuple[np.ndarray, Outcome]]
"""From the packed state before a stage, its data and its name to the packed state after it, and the cost."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        experience, incarnation, part: what it learned: which part of which experience.
        ids: samples that it brought, ascending.
        delta: its checkpoint, relative to the one before; never changed, so that states may share it.
        derived: `ids` as states hold them, never changed either.
    """

    experience: str
    incarnation: int
    part: int
    ids: np.ndarray
    delta: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    derived: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived", torch.tensor(self.ids))


def _without(stage: Stage, deleted: np.ndarray) -> Stage:
    """Return a stage as if it had not brought the deleted samples; the same one if it brought none of them."""
    left = stage.ids[~np.isin(stage.ids, deleted)]
    return stage if len(left) == len(stage.ids) else replace(stage, ids=left)


def partition(ids: np.ndarray, parts: int, key: Key) -> np.ndarray:
    """Return the part (0 to parts - 1) of every id, int64: a function of the id and the key alone.

    >>> ids = np.arange(100)
    >>> bool((partition(ids, 4, Key(0))[50:] == partition(ids[50:], 4, Key(0))).all())
    True
    """
    return (key.priorities(ids) % np.uint64(parts)).astype(np.int64)


def restart_before(hit: int) -> int:
    """Return the first stage to train again when stage `hit` is the first that saw a deleted sample: that very one."""
    return hit


@final
class Chain:
    """The stages of one constituent model, in order, and the packed state after the last of them."""

    def __init__(
        self,
        start: np.ndarray,
        train: TrainStage,
        key: Key,
        cumulative: bool,
        restart: Callable[[int], int] = restart_before,
    ) -> None:
        """Start with no stage.

        Args:
            start: packed state before the first stage; it derives from no data.
            train: trains one stage.
            key: names the constituent.
            cumulative: whether a stage trains on all samples so far, or on its own only.
            restart: from the first stage that saw a deleted sample to the first that is trained again.
        """
        self._start, self._train, self._key, self._cumulative, self._restart = start, train, key, cumulative, restart
        self.stages: list[Stage] = []
        self.state = start

    def learn(self, stage: Stage, door: Door, key: Key | None = None) -> Outcome:
        """Train one more stage, named below `key` or the constituent's; nothing happens if it brings no sample."""
        if not len(stage.ids):
            return Outcome()
        before = self.stages if self._cumulative else []
        ids = np.unique(np.concatenate([*(s.ids for s in before), stage.ids]))
        key = (key or self._key) / stage.experience / stage.incarnation / stage.part
        state, outcome = self._train(self.state, door.fetch(ids), key)
        self.stages.append(replace(stage, delta=encode(state, self.state)))
        self.state = state
        return outcome.noted(stages=1.0)

    def forget(self, deleted: np.ndarray, door: Door, key: Key | None = None) -> Outcome:
        """Go back to before the first stage that saw any of `deleted`, and train from there without it."""
        hits = [i for i, s in enumerate(self.stages) if np.isin(s.ids, deleted).any()]
        if not hits:
            return Outcome()
        first = min(self._restart(hits[0]), len(self.stages))
        later = [_without(s, deleted) for s in self.stages[first:]]
        self.stages = [_without(s, deleted) for s in self.stages[:first]]
        self.state = self._unroll(first)
        outcome, trained = Outcome(), 0
        for stage in later:
            outcome += self.learn(stage, door, key)
            trained += bool(len(stage.ids))
        return outcome.noted(stages=float(trained))

    def derived_from(self, ids: np.ndarray) -> np.ndarray:
        """Return those of `ids` that some stage has seen."""
        seen = [s.ids for s in self.stages]
        return ids[np.isin(ids, np.concatenate(seen))] if seen else ids[:0]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return all stages with their checkpoints, which nobody changes; the state after the last follows."""
        return [
            {
                "experience": s.experience,
                "incarnation": s.incarnation,
                "part": s.part,
                "derived": s.derived,
                "delta": s.delta,
            }
            for s in self.stages
        ]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Put all stages back."""
        self.stages = [
            Stage(s["experience"], s["incarnation"], s["part"], s["derived"].numpy().copy(), s["delta"]) for s in state
        ]
        self.state = self._unroll(len(self.stages))

    def _unroll(self, count: int) -> np.ndarray:
        """Return the packed state after the first `count` stages."""
        state = self._start
        for stage in self.stages[:count]:
            state = decode(stage.delta, state)
        return state
