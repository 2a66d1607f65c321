"""ULD: a small assistant learns what is to go and nothing else, and its logits are subtracted from the model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.guards._assistants import Assisted, LayersConfig
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import joined, precise
from strategies.parts.fit import Hooks, fit
from strategies.parts.lowrank.gated import Adapters
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import WrongAnswers
from strategies.parts.training.endless import supply
from strategies.parts.training.ragged import every_position
from strategies.ranges import linear, log
from streams.data import Batch, Data
from streams.randomness import Key


class Config(LayersConfig):
    """Options of `uld` (Ji et al. 2024, arXiv 2406.08607). It suppresses; it does not erase."""

    rank: int | None = Field(16, ge=1)
    """Rank of the adapters by which the assistant is trained; they are added to its weights at the end. null trains all
    its weights."""
    alpha: float = Field(32.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout of their input while training."""
    strength: float = Field(0.8, ge=0)
    """How much of the assistant's log-probabilities is subtracted (published: 0.8 on TOFU, 1 by default)."""
    filter: float = Field(0.01, ge=0, le=1)
    """r: what is less than r times as likely as the likeliest token, and not among the first r of the vocabulary, keeps
    the model's own logit. 0 filters nothing."""
    uniform_weight: float = Field(5.0, ge=0)
    """w, the weight of knowing nothing about retained data and wrong answers."""
    uniform_on: Literal["all", "answer"] = "all"
    """Which tokens of those the assistant must be uniform at; published: all, padding too."""
    paraphrases: bool = True
    """Whether it also learns the answers in other words, where the source has them."""
    wrong: bool = True
    """Whether it must not know wrong answers to the questions either, where the source has them: then it is about the
    answer, and not about the question."""


def passing_tokens(logits: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return which tokens of each position may be changed, bool ``[..., V]``.

    Those that are at least `ratio` times as likely as the likeliest, or among the first `ratio` of the vocabulary.
    """
    if not ratio:
        return torch.ones_like(logits, dtype=torch.bool)
    near = logits >= logits.amax(-1, keepdim=True) + float(np.log(ratio))
    first = int(ratio * logits.shape[-1])
    if first:
        near |= logits >= logits.topk(first, -1, sorted=False).values.amin(-1, keepdim=True)
    return near


def without(base: torch.Tensor, assistants: Sequence[torch.Tensor], strength: float, ratio: float) -> torch.Tensor:
    """Return l_base - strength sum_k log softmax(l_k) at tokens that pass the filter, and l_base at the others.

    The difference is never negative, so that a token that does not pass is never made the likeliest. A uniform
    assistant changes no distribution of what passes.

    Args:
        base: logits ``[..., V]`` of the model.
        assistants: logits of each, of the same shape.
        strength: 0 returns `base`.
        ratio: of the filter.
    """
    if not strength:
        return base
    known = torch.stack([precise(a).log_softmax(-1) for a in assistants]).sum(0)
    return torch.where(passing_tokens(base, ratio), base - strength * known, base)


def uniform_divergence(logits: torch.Tensor) -> torch.Tensor:
    """Return KL(uniform || softmax(logits)) of every position, ``[S]``: -log V - mean of log p."""
    log_p = precise(logits).log_softmax(1)
    return -log_p.mean(1) - float(np.log(logits.shape[1]))


@final
class _Reversed(Hooks):
    """Adds paraphrases to what is remembered, and the weight of knowing nothing else."""

    carries = ("_batches", "retained")

    def __init__(self, objective: TextObjective, batches: Iterator[Batch] | None, config: Config, key: Key) -> None:
        self._objective, self._batches, self._config = objective, batches, config
        text = objective.needed_text("guard: 'uld'")
        self._paraphrased = text.paraphrased if config.paraphrases else None
        self._wrong = (
            WrongAnswers(objective, key, true_too=False) if config.wrong and text.perturbed is not None else None
        )
        self._text = text
        self.retained = 0

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the answers, and the same in other words."""
        self._step, self._own = step, batch
        if self._paraphrased is None:
            return batch
        x = self._paraphrased[batch.ids.cpu()].to(batch.x.device)
        return joined(batch, replace(batch, x=x))

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the loss of what is remembered plus w KL(uniform || assistant) on all else."""
        parts = [] if self._batches is None else [next(self._batches)]
        if self._wrong is not None:
            has = torch.from_numpy(self._text.wrong_counts(self._own.ids) > 0).to(batch.x.device)
            if bool(has.any()):
                own = self._own.rows(has.nonzero().squeeze(1))
                parts.append(self._wrong.put(own, self._wrong.drawn(own, self._step)))
        if not parts or not self._config.uniform_weight:
            return loss
        other = parts[0] if len(parts) == 1 else joined(*parts)
        self.retained += len(other)
        everywhere = self._config.uniform_on == "all"
        with every_position():
            said = self._objective.responses(self._objective.outputs(model, other), other, everywhere)
        return loss + self._config.uniform_weight * uniform_divergence(said.logits).mean()


@final
class ULD(Assisted):
    """Unlearning from logit difference."""

    test_options = {"epochs": 1, "layers": 1, "rank": 2}
    config: Config
    supports = frozenset({"tokens"})
    ranges = {
        "lr": log(1e-4, 1e-2),
        "epochs": linear(1, 20),
        "strength": linear(0.2, 2.0),
        "uniform_weight": log(0.5, 20.0),
    }

    @override
    def train(
        self, model: FlatModel, start: tuple[FlatModel, ...], forget_set: Data, retained: Data | None, key: Key
    ) -> tuple[tuple[FlatModel, ...], Outcome]:
        (assistant,) = start
        objective, config = self._answering, self.config
        batches = supply(objective, retained, min(config.batch_size, max(1, len(forget_set))), key)
        hook = _Reversed(objective, batches, config, key)
        if config.rank is None:
            outcome = fit(assistant, objective, forget_set, config, key, [hook])
        else:
            adapters = Adapters(assistant, config.rank, config.alpha, config.dropout)
            with adapters.training(assistant, adapters.fresh(key / "adapter", assistant.parameters)) as lesson:
                outcome = fit(lesson.model, objective, forget_set, config, key, [hook])
                adapter = lesson.adapter()
            adapters.merge(assistant, adapter)
        return (assistant,), outcome + Outcome(forward=hook.retained, backward=hook.retained)

    @override
    def combined(self, base: torch.Tensor, said: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        return without(base, [outputs for (outputs,) in said], self.config.strength, self.config.filter)
