"""A-GEM: never step against the mean gradient of a few old samples (Chaudhry et al. 2019)."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import Objective
from strategies.parts.exemplars import Draws, Exemplars, Policy
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `agem` (averaged gradient episodic memory; Chaudhry et al. 2019, arXiv 1812.00420)."""

    memory: int = Field(200, ge=1)
    """Samples kept."""
    policy: Policy = "class-balanced"
    """An equal share for every class, as in the paper, or a uniform subset of all that was seen."""
    batch: int | None = Field(None, ge=1)
    """Samples that the reference gradient is taken on; null takes the training batch size."""


def project(gradient: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return `gradient` without its part against `reference`: g - min(0, g.r / r.r) r, ``[P]``.

    >>> project(torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 0.0]))
    tensor([0., 1.])
    """
    tiny = torch.finfo(reference.dtype).tiny
    against = (gradient.dot(reference) / reference.dot(reference).clamp(min=tiny)).clamp(max=0.0)
    return gradient - against * reference


@final
class AGEM(Plugin):
    """Projects the gradient where it points against the memory's."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting)
        self._memory = Exemplars(config.memory, config.policy, setting.key / "agem" / "priority")
        self._draws: Draws | None = None
        self._step = self._passed = 0
        self._model: FlatModel | None = None
        self._objective: Objective = setting.objective

    @property
    def access(self) -> Access:
        """The memory."""
        return Access(retained=self.config.memory)

    def begin(self, lesson: Lesson) -> None:
        """Borrow the memory's samples and draw which are looked at in which step."""
        size = self.config.batch or self.setting.training.batch_size
        self._draws = self._memory.draw(lesson.data.ids, size, lesson.steps, lesson.key / "agem", lesson.door)
        self._model, self._passed = lesson.model, 0
        self._objective = self.setting.objective.training_on(lesson.data)

    def extend(self, batch: Batch, step: int) -> Batch:
        """Take note of the step."""
        self._step = step
        return batch

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Project."""
        if self._draws is None or self._model is None:
            return gradient
        batch = self._draws[self._step]
        self._passed += len(batch)
        loss = self._objective.losses(self._objective.outputs(self._model, batch), batch).mean()
        trained = [p for p in self._model.network.parameters() if p.requires_grad]
        parts = torch.autograd.grad(loss, trained, allow_unused=True)
        reference = torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(trained, parts, strict=True)]
        )
        return project(gradient, reference)

    def end(self, lesson: Lesson) -> Outcome:
        """Let the new samples compete for their places."""
        self._draws = self._model = None
        self._memory.compete(lesson.data)
        return Outcome(forward=self._passed, backward=self._passed)

    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples."""
        self._memory.purge(request.sample_ids)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return the samples in memory."""
        return {"memory": self._memory.holds(ids)}

    def stored_ids(self) -> np.ndarray:
        """Return the samples in memory."""
        return self._memory.ids

    def state_dict(self) -> State:
        """Return the ids and classes in memory."""
        return self._memory.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Put the memory back."""
        self._memory.load_state_dict(state)
