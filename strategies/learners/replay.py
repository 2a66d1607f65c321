"""Experience replay: keep a few old samples and mix them into every batch."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.parts.buffers import draw_positions, keep_balanced, keep_uniform
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `replay` (experience replay; Chaudhry et al. 2019, arXiv 1902.10486)."""

    memory: int = Field(200, ge=1)
    """Samples kept."""
    policy: Literal["reservoir", "class-balanced"] = "reservoir"
    """A uniform subset of all that was seen, or an equal share for every class."""
    batch: int | None = Field(None, ge=1)
    """Replayed samples added to each batch; null takes the training batch size."""


@final
class Replay(Plugin):
    """Adds samples from a memory to every batch; the mean loss runs over both."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting)
        self._ids = np.array([], dtype=np.int64)
        self._classes = np.array([], dtype=np.int64)
        self._data: Data | None = None
        self._draws: torch.Tensor | None = None

    @property
    def access(self) -> Access:
        """The memory."""
        return Access(retained=self.config.memory)

    def begin(self, lesson: Lesson) -> None:
        """Borrow the memory's samples and draw which are replayed at which step."""
        self._data = self._draws = None
        fresh = np.setdiff1d(self._ids, lesson.data.ids, assume_unique=True)
        if len(fresh):
            size = min(self.config.batch or self.setting.training.batch_size, len(fresh))
            positions = draw_positions(fresh, size * lesson.steps, lesson.key / "replay")
            self._data = lesson.door.fetch(fresh)
            self._draws = torch.from_numpy(positions).to(lesson.model.parameters.device).view(lesson.steps, size)

    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch with the step's replayed samples behind it."""
        if self._data is None or self._draws is None:
            return batch
        return batch.concat(self._data.batch(self._draws[step]))

    def end(self, lesson: Lesson) -> Outcome:
        """Let the new samples compete for their places."""
        self._data = self._draws = None
        new = ~np.isin(lesson.data.ids, self._ids)
        ids = np.concatenate([self._ids, lesson.data.ids[new]])
        labels = lesson.data.targets().cpu().numpy().astype(np.int64)
        classes = np.concatenate([self._classes, labels[new]])
        key = self.setting.key / "replay" / "priority"
        if self.config.policy == "reservoir":
            kept = keep_uniform(ids, self.config.memory, key)
        else:
            kept = keep_balanced(ids, classes, self.config.memory, key)
        order = np.argsort(ids)
        self._classes = classes[order[np.searchsorted(ids, kept, sorter=order)]]
        self._ids = kept
        return Outcome()

    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples; their places go to whatever comes next."""
        keep = ~np.isin(self._ids, request.sample_ids)
        self._ids, self._classes = self._ids[keep], self._classes[keep]

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return the samples in memory."""
        return {"memory": ids[np.isin(ids, self._ids)]}

    def stored_ids(self) -> np.ndarray:
        """Return the samples in memory."""
        return self._ids

    def state_dict(self) -> State:
        """Return the ids and classes in memory."""
        return {"ids": torch.from_numpy(self._ids.copy()), "classes": torch.from_numpy(self._classes.copy())}

    def load_state_dict(self, state: State) -> None:
        """Put the memory back."""
        self._ids, self._classes = state["ids"].numpy().copy(), state["classes"].numpy().copy()
