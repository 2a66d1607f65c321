"""Fine-tune on the retained data and hope that the rest fades (catastrophic forgetting as unlearning)."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.parts.fit import fit
from strategies.ranges import TRAINED
from strategies.unlearners._retained import DefaultRetainConfig, RetainUnlearner, finish
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(DefaultRetainConfig):
    """Options of `finetune`."""

    epochs: int = Field(10, ge=1)
    """Passes over the retained data."""


@final
class Finetune(RetainUnlearner):
    """Minimises the mean loss of the retained data from the present weights.

    It needs retained data: there is nothing else to train on.
    """

    reads_forget_set = False

    test_options = {"epochs": 2, "batch_size": 64}
    config: Config
    ranges = TRAINED

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        outcome = fit(learner.model, self.setting.objective, retained, self.config, key)
        return outcome + finish(self.config, learner, retained)
