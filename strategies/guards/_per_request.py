"""What guards share that keep something of each request, as long as one of its samples is deleted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Guard, Setting, State
from strategies.objectives._text import TextObjective
from streams.config import Config


class Kept(Protocol):
    """What one request leaves behind; never changed."""

    @property
    def request(self) -> str:
        """The request's name."""

    @property
    def ids(self) -> np.ndarray:
        """The samples that it names, int64 ``[n]``."""

    @property
    def derived(self) -> np.ndarray:
        """Ids of the samples that it was derived from."""


K = TypeVar("K", bound=Kept)


class PerRequest(Guard, ABC, Generic[K]):
    """Keeps what each request left behind, in their order, until all of its samples are learned again."""

    config: Any
    state_grows = True
    component: ClassVar[str]
    """What is kept, as `holds` calls it."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request."""
        super().__init__(config, setting)
        self._objective = TextObjective.of(setting.objective)
        self._requests: list[K] = []
        self._deleted = np.array([], dtype=np.int64)

    @abstractmethod
    def told(self, kept: K) -> State:
        """Return what is kept of a request beside name and ids, as a state."""

    @abstractmethod
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> K:
        """Return what `told` has told."""

    def of_some(self, kept: K, stays: np.ndarray) -> K:
        """Return what is kept of a request when the other samples are learned again: all of it, by default.

        Args:
            kept: of the request.
            stays: which of its ids are still deleted, bool ``[n]``.
        """
        return kept

    def keep(self, new: K) -> None:
        """Keep what a request leaves behind."""
        self._requests.append(new)
        self._deleted = np.union1d(self._deleted, new.ids)

    @override
    def relearned(self, ids: np.ndarray) -> None:
        """Drop what is kept of requests whose samples are all back, and of samples that are, where each has its own."""
        self._deleted = np.setdiff1d(self._deleted, ids)
        kept = [(r, np.isin(r.ids, self._deleted)) for r in self._requests]
        self._requests = [self.of_some(r, stays) for r, stays in kept if stays.any()]

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{r.request}.{self.component}": ids[np.isin(ids, r.derived)] for r in self._requests}

    @override
    def state_dict(self) -> State:
        if not self._requests:
            return {"requests": []}
        requests = [
            {"request": r.request, "ids": torch.from_numpy(r.ids.copy()), "derived": torch.from_numpy(r.derived.copy())}
            | self.told(r)
            for r in self._requests
        ]
        return {"requests": requests, "deleted": torch.from_numpy(self._deleted.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._deleted = state["deleted"].numpy().copy() if "deleted" in state else self._deleted[:0]
        self._requests = [
            self.made(r["request"], r["ids"].numpy().copy(), r["derived"].numpy().copy(), r) for r in state["requests"]
        ]
