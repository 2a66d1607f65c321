"""IDK: teach answers that say nothing to the questions of the forget set (refusal tuning)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import joined
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals
from strategies.parts.training.endless import supply
from strategies.ranges import PAIRED_ON_TEXT
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner
from strategies.unlearners._retained import retained_data
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(PairedConfig):
    """Options of `idk` (Maini et al. 2024, arXiv 2401.06121). It hardly lowers the likelihood of the true answers."""

    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    mode: Literal["concat", "separate"] = "concat"
    """concat: one mean over all tokens of refusals and retained answers, as published, so that longer answers weigh
    more; it needs `retain: descent`, and the weights do not count. separate: a mean over each, weighed."""


@final
class Refuse(ForgetLoss):
    """The loss of refusals."""

    def __init__(self, objective: Objective, refusals: Refusals) -> None:
        """Take the objective that is unlearned on."""
        self._objective, self._refusals = objective, refusals

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Put refusals in the place of the true answers, which are never passed."""
        return self._refusals.put(batch, self._refusals.drawn(batch, step))

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""
        return self._objective.losses(outputs, batch).mean()


@final
class _Together(Hooks):
    """Puts refusals and retained samples into one batch."""

    carries = ("_retained",)

    def __init__(self, refuse: Refuse, retained: Iterator[Batch] | None) -> None:
        self._refuse, self._retained = refuse, retained

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        asked = self._refuse.extend(batch, step)
        return asked if self._retained is None else joined(asked, next(self._retained))


@final
class IDK(PairedUnlearner):
    """Fine-tunes on refusals to the forget set's questions, and on retained answers."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        return Refuse(objective, Refusals(objective, key)), Outcome()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        if self.config.mode == "separate" or self.config.retain != "descent":
            return super().forget(request, learner, door)
        key = self.setting.key / "idk" / request.name
        forget_set = door.forget_set()
        objective = self.setting.objective
        retained = retained_data(self.config.retained, learner, door)
        batches = supply(objective, retained, self.config.batch_size, key)
        hook = _Together(Refuse(objective, Refusals(objective, key)), batches)
        return fit(learner.model, objective, forget_set, self.config, key, [hook]).graded("none")
