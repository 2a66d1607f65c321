"""Offset: add to the model's logits the difference that unlearning makes to a small assistant (delta-unlearning)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.guards._assistants import Assisted, LayersConfig
from strategies.objectives._text import TextObjective
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.preference import npo_losses
from strategies.parts.training.endless import supply
from strategies.ranges import linear, log
from streams.data import Batch, Data
from streams.randomness import Key


class Config(LayersConfig):
    """Options of `offset` (Huang et al. 2024, arXiv 2404.11045)."""

    strength: float = Field(1.0, ge=0)
    """a in l_base + a (l_new - l_old); it is trained with the same."""
    loss: Literal["graddiff", "npo"] = "npo"
    """What is done to the answers of the composition: their loss raised without bound, or negative preference."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of npo."""
    retain_weight: float = Field(1.0, ge=0)
    """Weight of the composition's loss on retained data."""


def shifted(base: torch.Tensor, new: torch.Tensor, old: torch.Tensor, strength: float) -> torch.Tensor:
    """Return l_base + strength (l_new - l_old), of logits of any shape."""
    return base + strength * (new - old)


@final
class _Through(Hooks):
    """Replaces the loss by that of the composition: the assistant is trained by what all three models say together."""

    carries = ("_batches", "retained")

    def __init__(
        self,
        objective: TextObjective,
        base: FlatModel,
        old: FlatModel,
        batches: Iterator[Batch] | None,
        config: Config,
    ) -> None:
        self._objective, self._base, self._old = objective, base, old
        self._batches, self._config = batches, config
        self.retained = 0

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the forget loss of the composition, and its retained loss, weighed."""
        objective, config = self._objective, self._config
        composed, base = self._composed(outputs, batch)
        if config.loss == "graddiff":
            forget = -objective.losses(composed, batch).mean()
        else:
            now, before = (-objective.log_likelihoods(said, batch) for said in (composed, base))
            forget = npo_losses(now, before, config.beta).mean()
        if self._batches is None:
            return forget
        retained_batch = next(self._batches)
        self.retained += len(retained_batch)
        composed, _ = self._composed(objective.outputs(model, retained_batch), retained_batch)
        return forget + config.retain_weight * objective.losses(composed, retained_batch).mean()

    def _composed(self, new: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the composition says, and what the model says alone."""
        with torch.no_grad():
            base, old = (self._objective.outputs(m, batch) for m in (self._base, self._old))
        return shifted(base, new, old, self._config.strength), base


@final
class Offset(Assisted):
    """Unlearning by logit offset. The weights of the model are never needed, and never changed."""

    test_options = {"epochs": 1, "layers": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = {
        "lr": log(1e-4, 1e-2),
        "epochs": linear(1, 20),
        "strength": linear(0.2, 2.0),
        "retain_weight": log(0.1, 10.0),
    }

    @override
    def train(
        self, model: FlatModel, start: tuple[FlatModel, ...], forget_set: Data, retained: Data | None, key: Key
    ) -> tuple[tuple[FlatModel, ...], Outcome]:
        """Return the assistant, and the copy of it from before."""
        new, objective, config = start[0], self._answering, self.config
        old = start[1] if len(start) > 1 else self._copy(new)
        batches = supply(objective, retained, config.batch_size, key)
        model.train(False)
        hook = _Through(objective, model, old, batches, config)
        outcome = fit(new, objective, forget_set, config, key, [hook])
        more = Outcome(forward=2 * outcome.forward + 3 * hook.retained, backward=hook.retained)
        return (new, old), outcome + more

    @override
    def combined(self, base: torch.Tensor, said: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        for new, old in said:
            base = shifted(base, new, old, self.config.strength)
        return base
