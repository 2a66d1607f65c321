"""Instruction tuning only: after the general model, questions and answers in a chat template, and no document."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Lesson, Outcome, Plugin, Setting, State
from strategies.learners._original import GeneralConfig, general_data, needs_all_tokens
from strategies.parts.memory.exemplars import Exemplars
from strategies.parts.model import FlatModel
from strategies.parts.text.alignment import templated, with_prompt
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest, Experience
from streams.text import TEMPLATE, template


class Config(GeneralConfig):
    """Options of `instruction-tuning`."""

    memory: int = Field(500, ge=1)
    """Questions kept of the general experiences, to be trained on again with every domain."""
    template: tuple[str, str] = TEMPLATE
    """The chat template: text before a question, and between question and answer."""


@final
class InstructionTuning(Plugin):
    """Trains on rows that ask something, on their answers alone; of a domain, whatever asks something.

    A baseline of Mix-CPT: what a format teaches without the documents.
    """

    carries = ()
    test_options = {"memory": 10}
    config: Config
    supports = frozenset({"tokens"})

    def __init__(self, config: BaseConfig, setting: Setting) -> None:
        """Start with an empty memory.

        Raises:
            ConfigError: the objective is trained on other tokens than all.
        """
        super().__init__(config, setting)
        objective = needs_all_tokens(setting, "instruction-tuning")
        text = objective.needed_text("learner: 'instruction-tuning'")
        self._answers = objective.on("answer")
        self._template = template(self.config.template, text.tokenizer)
        self._memory = Exemplars(self.config.memory, "reservoir", setting.key / "instruction-tuning" / "priority")
        self._lessons = 0

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self.config.memory)

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        """Return the questions of the domain and those that are kept."""
        if self._is_general:
            return ids[:0] if self.config.general_known else ids
        own = ids[with_prompt(door.fetch(ids))] if len(ids) else ids
        return np.union1d(own, self._memory.ids)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        return batch if self._is_general else templated(batch, self._template)

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses if self._is_general else self._answers.losses(outputs, batch)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        if self._is_general:
            general = general_data(self.config, lesson)
            self._memory.compete(general.part(np.flatnonzero(with_prompt(general))))
        self._lessons += 1
        return Outcome()

    @override
    def purge(self, request: DeletionRequest) -> None:
        self._memory.purge(request.sample_ids)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"memory": self._memory.holds(ids)}

    @override
    def stored_ids(self) -> np.ndarray:
        return self._memory.ids

    @override
    def state_dict(self) -> State:
        return {"memory": self._memory.state_dict(), "lessons": self._lessons}

    @override
    def load_state_dict(self, state: State) -> None:
        self._memory.load_state_dict(state["memory"])
        self._lessons = state["lessons"]

    @property
    def _is_general(self) -> bool:
        return self._lessons < self.config.general
