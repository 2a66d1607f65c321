"""Other answers to the prompts of a batch: refusals, and wrong answers; and numbers of samples that are found by id."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM, answered, joined
from strategies.parts.model import FlatModel
from streams.data import Batch, Data
from streams.errors import ConfigError, DataError
from streams.randomness import Key
from streams.text import ANSWER, Text


class Values:
    """A number for every sample of some data, computed once at the model as it is, and found by id."""

    def __init__(self, ids: np.ndarray, values: torch.Tensor) -> None:
        """Keep ``values [n]`` of ascending ``ids [n]``."""
        self._ids = torch.from_numpy(ids).to(values.device)
        self.values = values

    def of(self, batch: Batch) -> torch.Tensor:
        """Return the numbers of a batch's samples, ``[B]``."""
        return self.values[torch.searchsorted(self._ids, batch.ids)]


@torch.no_grad()
def log_likelihoods(model: FlatModel, objective: Objective, data: Data, batch_size: int = 64) -> Values:
    """Return log p(target | input) of every sample in evaluation mode; the model is left in it."""
    model.train(False)
    parts = [objective.log_likelihoods(objective.outputs(model, b), b) for b in data.batches(batch_size)]
    return Values(data.ids, torch.cat(parts))


@final
class Refusals:
    """The source's refusals; each sample gets one of them, drawn anew at every step."""

    def __init__(self, objective: Objective, key: Key) -> None:
        """Take them from the objective's text.

        Raises:
            ConfigError: the objective is not one of text.
        """
        if not isinstance(objective, CausalLM) or objective.text is None or not objective.text.refusals:
            raise ConfigError(
                "unlearner: there are no refusals to teach; use objective: causal-lm on a source of text."
            )
        self.answers, self._key = objective.text.refusals, key

    def drawn(self, batch: Batch, step: int) -> np.ndarray:
        """Return which refusal each sample gets at a step, int64 ``[B]``."""
        share = (self._key / "refusal" / step).uniform(batch.ids.cpu().numpy())
        return np.floor(share * len(self.answers)).astype(np.int64)

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
        for batch in data.batches(batch_size):
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
        if not isinstance(objective, CausalLM) or objective.text is None or objective.text.perturbed is None:
            raise ConfigError(
                "Wrong answers are drawn from those of the source, and this one has none. Use a source that has them "
                "(people), or another unlearner."
            )
        self._options, self._key, self._true_too = objective.text.perturbed, key, true_too
        self._text = objective.text

    def drawn(self, batch: Batch, step: int) -> np.ndarray:
        """Return which option each sample gets at a step, int64 ``[B]``; -1 is its own answer.

        Raises:
            DataError: a sample has no wrong answer.
        """
        count = counted_wrong(self._text, batch.ids) + self._true_too
        share = (self._key / "option" / step).uniform(batch.ids.cpu().numpy())
        return np.floor(share * count).astype(np.int64) - self._true_too

    def put(self, batch: Batch, which: np.ndarray) -> Batch:
        """Return the batch with those options as answers, to the prompts that it has."""
        answers = []
        for row, own, option in zip(batch.ids.tolist(), batch.x, which.tolist(), strict=True):
            tokens, parts = own if option < 0 else self._options[row, option]
            answers.append(tokens[parts == ANSWER].tolist())
        return answered(batch, answers)
