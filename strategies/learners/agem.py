"""A-GEM: never step against the mean gradient of a few old samples (Chaudhry et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Setting
from strategies.learners._rehearsal import Rehearsal, RehearsalConfig
from strategies.objectives._base import Objective
from strategies.parts.memory.exemplars import Policy
from strategies.parts.model import FlatModel
from streams.data import Batch


class Config(RehearsalConfig):
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
class AGEM(Rehearsal):
    """Projects the gradient where it points against the memory's."""

    carries = ("_passed",)
    config: Config
    name: ClassVar[str] = "agem"

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory."""
        super().__init__(config, setting)
        self._step = self._passed = 0
        self._model: FlatModel | None = None
        self._objective: Objective = setting.objective
        self._drawing = setting.key

    @override
    def begin(self, lesson: Lesson) -> None:
        super().begin(lesson)
        self._model, self._passed, self._drawing = lesson.model, 0, lesson.key / "agem"
        self._objective = self.setting.objective.training_on(lesson.data)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        self._step = step
        return batch

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        if self._draws is None or self._model is None:
            return gradient
        batch = self._objective.drawn(self._draws[self._step], self._drawing / self._step)
        self._passed += len(batch)
        loss = self._objective.losses(self._objective.outputs(self._model, batch), batch).mean()
        trained = [p for p in self._model.network.parameters() if p.requires_grad]
        parts = torch.autograd.grad(loss, trained, allow_unused=True)
        reference = torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(trained, parts, strict=True)]
        )
        return project(gradient, reference)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._model = None
        return super().end(lesson) + Outcome(forward=self._passed, backward=self._passed)
