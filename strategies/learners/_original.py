"""What learners of text share that start from a general model: which experiences are general, and what they leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.parts.teachers.original import Original
from strategies.parts.teachers.swap import swapped_divergences
from strategies.parts.teachers.teacher import frozen_copy
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience


class GeneralConfig(BaseConfig):
    """Where the general model comes from."""

    general: int = Field(1, ge=0)
    """The first so many experiences of the stream are general text and are learned as they are; what they leave is the
    original model. 0: the initial model is the original (a checkpoint), and there is no general data."""
    general_known: bool = False
    """Whether the general experiences are taken to be known: they are not trained on, and serve as the general data
    beside a checkpoint, which then is the original model."""


def general_data(config: GeneralConfig, lesson: Lesson) -> Data:
    """Return the samples of a general experience: what it teaches, or would teach if it were not known."""
    return lesson.door.fetch(lesson.experience.sample_ids) if config.general_known else lesson.data


class OriginalConfig(GeneralConfig):
    """Options of what is held to the original model while it learns a domain."""

    strength: float = Field(1.0, ge=0)
    """lambda, the weight of self-distillation. Unpublished; a reimplementation has 0.3."""
    teacher: Literal["previous", "original"] = "previous"
    """Who teaches while a domain is learned: the model as it was before this domain, which also protects earlier
    domains, or the original. The paper adapts to one domain, where both are the same."""


def needs_all_tokens(setting: Setting, name: str) -> TextObjective:
    """Return the objective if it is next-token prediction over whole rows.

    Raises:
        ConfigError: it is not.
    """
    objective = TextObjective.of(setting.objective)
    if objective.loss_on != "all":
        raise ConfigError(
            f"objective.loss_on: {name!r} goes on pretraining, on every token of plain text; set objective: {{name: "
            f"causal-lm, loss_on: all}}."
        )
    return objective


class HeldToOriginal(Plugin, ABC):
    """Adds strength times a divergence from the teacher, per token, over every row that is trained on."""

    carries = ("_terms", "_passed")
    config: OriginalConfig
    name: ClassVar[str]
    """Of the learner, for messages and for the names of its randomness."""

    def __init__(self, config: OriginalConfig, setting: Setting) -> None:
        """Start before the first lesson.

        Raises:
            ConfigError: the objective is trained on other tokens than all.
        """
        super().__init__(config, setting)
        self._text_objective = needs_all_tokens(setting, self.name)
        self._original = Original(setting)
        self._lessons = 0
        self._teacher: FlatModel | None = None
        self._whole = self._text_objective
        self._terms: list[torch.Tensor] = []
        self._passed = 0

    @property
    @abstractmethod
    def swaps(self) -> bool:
        """Whether the teacher is given the right token."""

    @property
    def is_general(self) -> bool:
        """Whether the lesson at hand is part of the general experiences."""
        return self._lessons < self.config.general

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        return ids[:0] if self.is_general and self.config.general_known else ids

    @override
    def begin(self, lesson: Lesson) -> None:
        """Choose the teacher; before the first domain, keep the original."""
        self._terms, self._passed, self._teacher = [], 0, None
        if self.is_general:
            return
        if not self._original.there:
            self._original.take(lesson.model)
        if self.config.strength:
            mine = self.config.teacher == "original"
            self._teacher = self._original.model if mine else frozen_copy(self.setting, lesson.model)
        self._whole = self._text_objective.training_on(lesson.data)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Add the distillation on the very batch that is trained on."""
        if self._teacher is None:
            return loss
        term = self.divergence(self._whole, self._teacher, outputs, batch)
        self._terms.append(term.detach())
        return loss + self.config.strength * term

    def divergence(
        self, objective: TextObjective, teacher: FlatModel, outputs: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Return the mean divergence over the positions that count in the objective's losses, reduced as those are."""
        self._passed += len(batch)
        with torch.no_grad():
            reference = objective.outputs(teacher, batch)
        if self.swaps:
            return swapped_divergences(objective, outputs, reference, batch).mean()
        return objective.divergences(outputs, reference, batch).mean()

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._original.saw(lesson.data.ids)
        self._lessons += 1
        self._teacher = None
        losses = {f"{self.name}_distillation": float(torch.stack(self._terms).mean())} if self._terms else {}
        self._terms = []
        return Outcome(forward=self._passed, losses=losses)

    @override
    def purge(self, request: DeletionRequest) -> None:
        self._original.purge(request.sample_ids)

    @override
    def settle(self, model: FlatModel) -> None:
        """Replace an original that had seen what was unlearned."""
        self._original.settle(model)

    @override
    def offers(self) -> tuple[object, ...]:
        return (self._original,)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"original": self._original.holds(ids)}

    @override
    def state_dict(self) -> State:
        return {"original": self._original.state_dict(), "lessons": self._lessons}

    @override
    def load_state_dict(self, state: State) -> None:
        self._original.load_state_dict(state["original"])
        self._lessons = state["lessons"]
