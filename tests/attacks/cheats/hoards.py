"""Hoards: keeps samples where nobody looks for them, in half precision, and halved."""

from __future__ import annotations

import numpy as np
import torch

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """Options."""

    names: bool = False


class Hoards(Plugin):
    """Keeps the samples of every experience."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self._kept = [torch.zeros(0, dtype=torch.float16)]
        self._ids: list[int] = []

    def end(self, lesson: Lesson) -> Outcome:
        """Keep them."""
        batch = lesson.data.all()
        self._kept.append((batch.x / 2).half())
        self._ids += batch.ids.tolist()
        return Outcome()

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Name them, if it is honest."""
        return {"hoard": ids[np.isin(ids, self._ids)]} if self.config.names else {}

    def state_dict(self) -> State:
        """Return what is kept."""
        return {"kept": [kept.clone() for kept in self._kept]}

    def load_state_dict(self, state: State) -> None:
        """Put it back."""
        self._kept = list(state["kept"])
