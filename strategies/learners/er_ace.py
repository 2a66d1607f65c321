"""ER-ACE: replay, with new samples competing only against classes of their own batch (Caccia et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Lesson, Outcome, Setting, State
from strategies.learners._rehearsal import Rehearsal, RehearsalConfig
from strategies.objectives._base import Objective
from strategies.parts.memory.exemplars import Policy
from strategies.parts.model import FlatModel
from strategies.ranges import log
from streams.data import Batch


class Config(RehearsalConfig):
    """Options of `er-ace` (asymmetric cross-entropy; Caccia et al. 2022, arXiv 2104.05025)."""

    memory: int = Field(200, ge=1)
    """Samples kept."""
    policy: Policy = "reservoir"
    """A uniform subset of all that was seen, or an equal share for every class."""
    batch: int | None = Field(None, ge=1)
    """Replayed samples per step; null takes the training batch size."""
    strength: float = Field(1.0, ge=0)
    """Weight of the replay loss; the paper adds both."""


def competing(targets: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return which outputs new samples compete with, bool ``[C]``: classes of the batch, and those never seen.

    Args:
        targets: int64 ``[B]``.
        seen: bool ``[C]``.

    >>> competing(torch.tensor([1, 1]), torch.tensor([True, True, False]))
    tensor([False,  True,  True])
    """
    allowed = ~seen
    allowed[targets] = True
    return allowed


@final
class ERACE(Rehearsal):
    """Masks the loss of new samples from the second experience on, and adds the mean loss of replayed ones."""

    carries = ("_passed",)
    config: Config
    supports = frozenset({"classes", "numbers"})
    name: ClassVar[str] = "er-ace"
    ranges = {"strength": log(0.1, 10.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory and no class seen."""
        super().__init__(config, setting)
        self._seen = np.zeros(setting.objective.num_outputs, dtype=bool)
        self._seen_here = torch.zeros(0, dtype=torch.bool)
        self._replayed: Batch | None = None
        self._masks = False
        self._passed, self._drawing = 0, setting.key
        self._objective: Objective = setting.objective

    @override
    def begin(self, lesson: Lesson) -> None:
        super().begin(lesson)
        by_class = self.setting.objective.predicts == "classes"
        self._masks = by_class and bool(self._seen.any())
        if by_class:
            self._seen[np.unique(lesson.data.targets().cpu().numpy())] = True
        self._seen_here = torch.from_numpy(self._seen).to(lesson.model.parameters.device)
        self._passed, self._drawing = 0, lesson.key / "er-ace"
        self._objective = self.setting.objective.training_on(lesson.data)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Take the step's replayed samples; they are passed on their own."""
        drawing = self._drawing / step
        self._replayed = None if self._draws is None else self._objective.drawn(self._draws[step], drawing)
        return batch

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the losses with all classes masked that new samples must not push down."""
        if not self._masks:
            return losses
        allowed = competing(batch.y, self._seen_here)
        return self._objective.losses(outputs.masked_fill(~allowed, float("-inf")), batch)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Add the replayed samples' mean loss over all classes."""
        if self._replayed is None or not self.config.strength:
            return loss
        self._passed += len(self._replayed)
        old = self._objective.outputs(model, self._replayed)
        return loss + self.config.strength * self._objective.losses(old, self._replayed).mean()

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._replayed = None
        return super().end(lesson) + Outcome(forward=self._passed, backward=self._passed)

    @override
    def state_dict(self) -> State:
        return {"memory": super().state_dict(), "seen": torch.from_numpy(self._seen.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state["memory"])
        self._seen = state["seen"].numpy().copy()
