"""Generative replay: before learning on, the model draws images of what it was taught, and learns them once more."""

from __future__ import annotations

from functools import partial
from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._denoising import DenoisingObjective
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import linear
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `generative-replay` (Shin et al. 2017, arXiv 1705.08690)."""

    per_prompt: int = Field(16, ge=1)
    """Images that are drawn for each prompt of earlier experiences."""
    batch: int | None = Field(None, ge=1)
    """Drawn images added to each batch; null takes the training batch size."""


@final
class GenerativeReplay(Plugin):
    """Adds images of its own to every batch: of all prompts that were learned, less those that were deleted.

    It keeps no images. They are drawn by the model as it stands when an experience begins, after whatever an unlearner
    has done to it, so that what is deleted by then is neither asked for nor drawn from older weights.
    """

    carries = ()
    supports = frozenset({"images"})
    test_options = {"per_prompt": 2, "batch": 8}
    ranges = {"per_prompt": linear(4, 64)}
    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Begin without any prompt.

        Raises:
            ConfigError: the objective is another one.
        """
        super().__init__(config, setting)
        self._objective = DenoisingObjective.of(setting.objective)
        self._taught = np.zeros(setting.num_samples, dtype=bool)  # samples whose prompts are replayed
        self._pool: Batch | None = None
        self._lesson: Lesson | None = None
        self._drawn = 0

    @override
    def begin(self, lesson: Lesson) -> None:
        """Draw images of all prompts learned before that this experience does not teach itself."""
        self._lesson = lesson
        prompts, objective = self._objective.prompts, self._objective
        earlier = prompts.of(np.flatnonzero(self._taught))
        earlier = earlier[~prompts.among(earlier, prompts.of(lesson.data.ids))]
        self._pool, self._drawn = None, 0
        if not len(earlier):
            return
        asked = np.repeat(earlier, self.config.per_prompt, axis=0)
        numbers = np.arange(len(asked))
        noise = (lesson.key / "generative-replay" / "noise").normals(numbers, objective.num_outputs)
        start = torch.from_numpy(noise).to(lesson.model.parameters)
        with evaluating(lesson.model):
            images = objective.generated(partial(objective.outputs, lesson.model), asked, start)
        self._drawn = objective.config.steps * (1 + (objective.config.guidance != 1)) * len(asked)
        like = lesson.data.batch(lesson.data.positions()[:1])
        words = torch.from_numpy(asked).to(images.device)
        x = objective.unclean(images).view(-1, *like.x.shape[1:])
        # Draws are named by ids: those of images lie below those of all samples.
        ids = torch.from_numpy(-1 - numbers).to(images.device)
        self._pool = Batch(ids, x.to(like.x), words[:, 0], extra={"style": words[:, 1]})

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch with images behind it that are drawn from all, with replacement."""
        if self._pool is None or self._lesson is None:
            return batch
        size = self.config.batch or self.setting.training.batch_size
        rows = (self._lesson.key / "generative-replay" / step).below(np.arange(size), len(self._pool))
        drawn = self._pool.rows(torch.from_numpy(rows).to(self._pool.x.device))
        return self._objective.with_styles(batch).concat(drawn)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._pool = self._lesson = None
        self._taught[lesson.data.ids] = True
        return Outcome(forward=self._drawn)

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Replay a prompt no longer if no sample of it is left."""
        self._taught[request.sample_ids] = False

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return which samples' prompts are replayed."""
        return {"prompts": ids[self._taught[ids]]}

    @override
    def state_dict(self) -> State:
        return {"taught": torch.from_numpy(self._taught.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._taught = state["taught"].numpy().copy()
