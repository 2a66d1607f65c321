"""First reference: keep the model as it was at the first request, for unlearners with `reference: first`."""

from __future__ import annotations

from typing import final

import numpy as np
from typing_extensions import override

from strategies.base import Lesson, Outcome, Plugin, Setting, State
from strategies.parts.teachers.first_reference import FirstReference
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """`first-reference` has no options."""


@final
class FirstReferenceKeeper(Plugin):
    """Keeps a copy of the weights; training is not changed.

    The copy knows all that later requests name. `holds` reports it, and no approximate unlearner takes it away.
    """

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with the initial weights."""
        super().__init__(config, setting)
        self._reference = FirstReference(setting)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._reference.follow(lesson.model, lesson.data.ids)
        return Outcome()

    @override
    def purge(self, request: DeletionRequest) -> None:
        self._reference.fix()

    @override
    def offers(self) -> tuple[object, ...]:
        return (self._reference,)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"reference": self._reference.holds(ids)}

    @override
    def state_dict(self) -> State:
        return self._reference.state_dict()

    @override
    def load_state_dict(self, state: State) -> None:
        self._reference.load_state_dict(state)
