"""Other answers to the prompts of a batch: refusals, and wrong answers; and numbers of samples that are found by id."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.base import Setting
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import answered, joined
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from streams.data import Batch, Data
from streams.errors import ConfigError, DataError
from streams.randomness import Key
from streams.text import ANSWER, Text


class Values:
    """A number for every sample of some data, computed once at the model as it is, and found by id."""

    def __init__(self, ids: np.ndarray, values: torch.Tensor) -> None:
        """Keep ``values [n]`` of ascending ``ids [n]``."""
        self._ids = torch.tensor(ids).to(values.device)
        self.values = values

    def of(self, batch: Batch) -> torch.Tensor:
        """Return the numbers of a batch's samples, ``[B]``."""
        return self.values[torch.searchsorted(self._ids, batch.ids)]


@torch.no_grad()
def log_likelihoods(model: FlatModel, objective: Objective, data: Data, batch_size: int = 64) -> Values:
    """Return log p(target | input) of every sample in evaluation mode; the model is left in it."""
    model.train(False)
    parts = [objective.log_likelihoods(objective.outputs(model, b), b) for b in objective.batches(data, batch_size)]
    return Values(data.ids, torch.cat(parts))


@final
class Passed:
    """log p(target | input) under a frozen model of each batch as it comes, with what was drawn for it."""

    def __init__(self, model: FlatModel, objective: Objective) -> None:
        """Pass batches through `model`, which is in evaluation mode."""
        self._model, self._objective = model, objective

    @torch.no_grad()
    def of(self, batch: Batch) -> torch.Tensor:
        """Return the numbers of a batch's samples, ``[B]``."""
        return self._objective.log_likelihoods(self._objective.outputs(self._model, batch), batch)


def before_request(
    setting: Setting, model: FlatModel, objective: Objective, data: Data, epochs: int
) -> tuple[Values | Passed, Outcome]:
    """Return log p(target | input) under a model as it is, and what that costs in so many passes over the data.

    Computed once, unless the objective draws: then the model at work and the reference must see the same draws.
    """
    if objective.draws:
        return Passed(frozen_copy(setting, model), objective), Outcome(forward=epochs * len(data))
    return log_likelihoods(model, objective, data), Outcome(forward=len(data))


@final
class Refusals:
    """The source's refusals; each sample gets one of them, drawn anew at every step."""

    def __init__(self, objective: Objective, key: Key) -> None:
        """Take them from the objective's text.

        Raises:
            ConfigError: there are none.
        """
        text = TextObjective.of(objective).needed_text("unlearner: what teaches refusals")
        if not text.refusals:
            raise ConfigError("unlearner: there are no refusals to teach; use a source that has them.")
        self.answers, self._key = text.refusals, key

    def drawn(self, batch: Batch, step: int) -> np.ndarray:
        """Return which refusal each sample gets at a step, int64 ``[B]``."""
        return (self._key / "refusal" / step).below(batch.ids.cpu().numpy(), len(self.answers))

    def put(self, batch: Batch, which: np.ndarray) -> Batch:
        """Return the batch with those refusals as answers."""
        return answered(batch, [self.answers[i] for i in which])

    def beside(self, batch: Batch, which: np.ndarray) -> Batch:
        """Return the batch followed by itself with those refusals as answers, ``2 B`` rows."""
        return joined(batch, self.put(batch, which))

    @torch.no_grad()
    def log_likelihoods(self, model: FlatModel, objective: Objective, data: Data, batch_size: int = 64) -> Values:
        """Return log p(refusal | prompt) of every sample and refusal, ``[n, R]``, in evaluation mode."""
        model.train(False)
        parts = []
        for batch in objective.batches(data, batch_size):
            asked = [self.put(batch, np.full(len(batch), i)) for i in range(len(self.answers))]
            parts.append(torch.stack([objective.log_likelihoods(objective.outputs(model, b), b) for b in asked], 1))
        return Values(data.ids, torch.cat(parts))


def counted_wrong(text: Text, ids: torch.Tensor) -> np.ndarray:
    """Return how many wrong answers each sample has, int64 ``[B]``, all of them at least one.

    Raises:
        DataError: a sample has none.
    """
    counts = text.wrong_counts(ids)
    if not counts.all():
        raise DataError(
            f"{int((counts == 0).sum())} of {len(counts)} samples have no wrong answer to be taught or held against "
            f"their own. Add some to the source (perturbed_answer), or use a method that needs none."
        )
    return counts


@final
class WrongAnswers:
    """The source's wrong answers to its own prompts; each sample gets one of them, or its own, by name."""

    def __init__(self, objective: Objective, key: Key, true_too: bool) -> None:
        """Take them from the objective's text.

        Args:
            objective: one of text, whose source has wrong answers.
            key: names the draws.
            true_too: whether the true answer is one of the options.

        Raises:
            ConfigError: there are none.
        """
        text = TextObjective.of(objective).needed_text("unlearner: what teaches wrong answers")
        if text.perturbed is None:
            raise ConfigError(
                "Wrong answers are drawn from those of the source, and this one has none. Use a source that has them "
                "(people), or another unlearner."
            )
        self._options, self._key, self._true_too = text.perturbed, key, true_too
        self._text = text

    def drawn(self, batch: Batch, step: int) -> np.ndarray:
        """Return which option each sample gets at a step, int64 ``[B]``; -1 is its own answer.

        Raises:
            DataError: a sample has no wrong answer.
        """
        count = counted_wrong(self._text, batch.ids) + self._true_too
        return (self._key / "option" / step).below(batch.ids.cpu().numpy(), count) - self._true_too

    def put(self, batch: Batch, which: np.ndarray) -> Batch:
        """Return the batch with those options as answers, to the prompts that it has."""
        answers = []
        for row, own, option in zip(batch.ids.tolist(), batch.x, which.tolist(), strict=True):
            tokens, parts = own if option < 0 else self._options[row, option]
            answers.append(tokens[parts == ANSWER].tolist())
        return answered(batch, answers)
