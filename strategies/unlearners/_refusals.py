"""What unlearners share that teach answers which say nothing: the refusals, and which one a sample gets at a step."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from strategies.objectives._base import Objective
from strategies.objectives.causal_lm import CausalLM, answered, joined
from strategies.parts.model import FlatModel
from strategies.unlearners._paired import Values
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.randomness import Key


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
