"""First reference: keep the model as it was at the first request, for unlearners with `reference: first`."""

from __future__ import annotations

from typing import final

import numpy as np

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

    def end(self, lesson: Lesson) -> Outcome:
        """Follow the model."""
        self._reference.follow(lesson.model, lesson.data.ids)
        return Outcome()

    def purge(self, request: DeletionRequest) -> None:
        """Follow it no longer."""
        self._reference.fix()

    def offers(self) -> tuple[object, ...]:
        """Return the copy."""
        return (self._reference,)

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the copy was derived from."""
        return {"reference": self._reference.holds(ids)}

    def state_dict(self) -> State:
        """Return the copy."""
        return self._reference.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Put it back."""
        self._reference.load_state_dict(state)
