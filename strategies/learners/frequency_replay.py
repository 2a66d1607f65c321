"""Frequency replay: add all that is kept of classes that come rarely to the experience (Lesort et al. 2023)."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Lesson, Outcome, Plugin, Setting, State
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest, Experience
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `frequency-replay` (Lesort et al. 2023, arXiv 2207.04543)."""

    choice: Literal["rare", "random"] = "rare"
    """rare: the classes that came least often. random: any class but the experience's, as a control."""
    per_class: int = Field(200, ge=1)
    """Samples kept of each class."""
    min_occurrences: int = Field(3, ge=1)
    """A class must have come, or been replayed, that often (rare)."""
    low: float = Field(0.01, ge=0, lt=1)
    """Occurrences per experience above which a class is worth replaying (rare)."""
    high: float = Field(0.1, gt=0, le=1)
    """Occurrences per experience above which a class needs no replay (rare)."""
    probability: float = Field(0.5, ge=0, le=1)
    """Chance of each of the experience's classes to bring a replayed one with it (random)."""


def rare_classes(
    occurrences: np.ndarray, experiences: int, present: np.ndarray, min_occurrences: int, low: float, high: float
) -> list[int]:
    """Return the classes to replay, rarest first, at most as many as are present.

    Args:
        occurrences: int64 ``[C]``, how often each class came or was replayed.
        experiences: how many there have been.
        present: ids of the experience's classes.
        min_occurrences, low, high: see `Config`.

    >>> rare_classes(np.array([9, 3, 2, 4, 50]), 100, np.array([0, 4]), 3, 0.01, 0.1)
    [1, 3]
    """
    chosen: list[int] = []
    for c in np.argsort(occurrences, kind="stable"):
        if c in present or occurrences[c] < min_occurrences:
            continue
        frequency = occurrences[c] / max(experiences, 1)
        if frequency > high or len(chosen) == len(present):
            break
        if frequency > low:
            chosen.append(int(c))
    return chosen


@final
class FrequencyReplay(Plugin):
    """Keeps some samples of every class and learns all of a rare class's again when its turn comes."""

    state_grows = True
    supports = frozenset({"classes", "images", "tokens"})
    test_options = {"per_class": 5, "min_occurrences": 1, "high": 1.0}
    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing kept."""
        super().__init__(config, setting)
        num_classes = 1 + max((c for u in setting.units for c in u.classes), default=setting.objective.num_outputs - 1)
        self._occurrences = np.zeros(num_classes, dtype=np.int64)
        self._experiences = 0
        self._ids: list[np.ndarray] = [np.array([], dtype=np.int64)] * num_classes
        self._present = np.array([], dtype=np.int64)
        self._counted = np.zeros(setting.num_samples, dtype=bool)  # whose class had a say in what is kept
        self._replayed: list[int] = []

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self.config.per_class * len(self._ids))

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        """Return the ids with all that is kept of the chosen classes."""
        self._present = np.unique(door.fetch(ids).targets().cpu().numpy().astype(np.int64))
        config = self.config
        if config.choice == "rare":
            limits = (config.min_occurrences, config.low, config.high)
            self._replayed = rare_classes(self._occurrences, self._experiences, self._present, *limits)
        else:
            self._replayed = self._random_classes(
                self.setting.key / "frequency-replay" / experience.name / experience.incarnation
            )
        return np.unique(np.concatenate([ids, *(self._ids[c] for c in self._replayed)]))

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Count what came, and renew some of what is kept of it."""
        labels = lesson.data.targets().cpu().numpy().astype(np.int64)
        for c in self._present:
            self._renew(int(c), lesson.data.ids[labels == c], lesson.key / "frequency-replay" / int(c))
        self._counted[lesson.data.ids] = True
        self._experiences += 1
        self._occurrences[self._present] += 1
        self._occurrences[self._replayed] += 1
        return Outcome()

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples; a class of which nothing is left has never come."""
        for c, ids in enumerate(self._ids):
            remaining = ids[~np.isin(ids, request.sample_ids)]
            if len(ids) and not len(remaining):
                self._occurrences[c] = 0
            self._ids[c] = remaining

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"memory": ids[np.isin(ids, self.stored_ids())], "counts": ids[self._counted[ids]]}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.sort(np.concatenate(self._ids))

    @override
    def state_dict(self) -> State:
        return {
            "occurrences": torch.from_numpy(self._occurrences.copy()),
            "experiences": self._experiences,
            "ids": [torch.from_numpy(i.copy()) for i in self._ids],
            "counted": torch.from_numpy(self._counted.copy()),
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._occurrences, self._experiences = state["occurrences"].numpy().copy(), state["experiences"]
        self._ids = [i.numpy().copy() for i in state["ids"]]
        self._counted = state["counted"].numpy().copy()

    def _random_classes(self, key: Key) -> list[int]:
        candidates = [c for c, ids in enumerate(self._ids) if len(ids) and c not in self._present]
        generator = key.numpy()
        count = int((generator.random(len(self._present)) < self.config.probability).sum())
        return generator.permutation(candidates)[:count].astype(int).tolist()

    def _renew(self, c: int, ids: np.ndarray, key: Key) -> None:
        """Keep samples when the class comes first; later overwrite a share that shrinks as it comes, to 5 %."""
        size, kept_ids = self.config.per_class, self._ids[c]
        new = ids[~np.isin(ids, kept_ids)]
        count = max(size // (int(self._occurrences[c]) + 1), size // 20) if len(kept_ids) else size
        new = new[key.order(new)[:count]]
        room = max(size - len(new), 0)
        stay = kept_ids[(key / "stay").order(kept_ids)[:room]]
        self._ids[c] = np.sort(np.concatenate([stay, new[:size]]))
