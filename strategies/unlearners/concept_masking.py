"""Concept masking: mask the tokens that an answer hangs on most, and fine-tune on what is left of the text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.objectives._text import TextObjective
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.training.ragged import every_position
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import TRAINED_ON_TEXT, linear
from strategies.unlearners._poisoned import Poison
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key
from streams.text import ANSWER, GIVEN

_METHOD = "unlearner: 'concept-masking'"


class Config(RetainConfig):
    """Options of `concept-masking`, the form of concept poisoning for text (Chang et al. 2024, arXiv 2405.15662)."""

    epochs: int = Field(10, ge=1)
    """Passes over retained and masked data."""
    batch_size: int = Field(16, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights."""
    share: float = Field(0.3, gt=0, le=1)
    """Share of a row's tokens that are masked, those with the highest attributions; at least one."""
    tokens: Literal["all", "answer", "prompt"] = "all"
    """Which tokens may be masked. A masked token of an answer is learned as such."""
    mask: str = Field("<unk>", min_length=1)
    """The token that takes their place; one of the vocabulary."""
    steps: int = Field(16, ge=1)
    """Points of the path that attributions are integrated over."""


@contextlib.contextmanager
def _read(model: FlatModel, change: Any) -> Iterator[None]:
    """Have the first block read ``change(states)``."""

    def hook(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    handle = blocks_of(model)[0].register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def integrated_gradients(
    model: FlatModel, objective: TextObjective, batch: Batch, mask: int, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much each token adds to log p(answer | what is before it), ``[B, T]`` (Sundararajan et al. 2017).

    The path leads in a straight line from what the first block reads of a row whose tokens are all masked to what it
    reads of the row; the gradient is taken at the middle of every step. A row's attributions sum to the difference of
    log p between both ends, up to the error of the sum over steps.

    Args:
        model: in evaluation mode.
        objective: scores answers.
        batch: rows ``x [B, 2, L]``.
        mask: id of the token that masks.
        steps: of the path.

    Returns:
        Attributions ``[B, T]``, and the difference ``[B]`` that they should sum to.
    """
    heard: list[torch.Tensor] = []

    def hear(states: torch.Tensor) -> torch.Tensor:
        heard.append(states.detach())
        return states

    x = batch.x.clone()
    x[:, 0][x[:, 1] > 0] = mask
    with torch.no_grad(), _read(model, hear):
        objective.outputs(model, replace(batch, x=x))
        objective.outputs(model, batch)
    start, end = heard

    def at(share: float) -> tuple[torch.Tensor, torch.Tensor]:
        states = (start + share * (end - start)).requires_grad_()
        with _read(model, lambda _: states):
            return states, objective.log_likelihoods(objective.outputs(model, batch), batch)

    total = torch.zeros_like(start)
    for step in range(steps):
        states, log_p = at((step + 0.5) / steps)
        total += torch.autograd.grad(log_p.sum(), states)[0]
    with torch.no_grad():
        difference = at(1.0)[1] - at(0.0)[1]
    return ((end - start) * total / steps).sum(2), difference


def masked(batch: Batch, attributions: torch.Tensor, share: float, tokens: str, mask: int, last: int) -> torch.Tensor:
    """Return the rows ``x [B, 2, L]`` with their most attributed tokens masked.

    Args:
        batch: the rows.
        attributions: ``[B, T]``.
        share: of the tokens that may be masked.
        tokens: all, answer or prompt: which these are; the start token and the end token never are.
        mask: id of the token that masks.
        last: id of the end token.
    """
    x, length = batch.x.clone(), attributions.shape[1]
    kinds = {"all": (GIVEN, ANSWER), "answer": (ANSWER,), "prompt": (GIVEN,)}[tokens]
    may = torch.stack([x[:, 1, :length] == kind for kind in kinds]).any(0) & (x[:, 0, :length] != last)
    may[:, 0] = False
    for row, values, allowed in zip(x, attributions, may, strict=True):
        count = min(int(allowed.sum()), max(1, round(share * int(allowed.sum()))))
        row[0, values.masked_fill(~allowed, float("-inf")).topk(count).indices] = mask
    return x


@final
class ConceptMasking(RetainUnlearner):
    """Finds the tokens by integrated gradients at the model as it is, and trains on masked and retained rows alike."""

    test_options = {"epochs": 1, "steps": 2}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {"share": linear(0.05, 0.8)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Find the token that masks.

        Raises:
            ConfigError: the vocabulary has no such token, or the model has no blocks.
        """
        super().__init__(config, setting)
        text = TextObjective.of(setting.objective).needed_text(_METHOD)
        if config.mask not in text.tokenizer.vocabulary:
            raise ConfigError(
                f"concept-masking.mask: {config.mask!r} is no token of this vocabulary; name one that is, such as the "
                f"tokeniser's unknown or end token."
            )
        self._mask, self._end = text.tokenizer.vocabulary[config.mask], text.tokenizer.eos
        blocks_of(setting.outline())

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        """Mask, then train on all together."""
        config, model, setting = self.config, learner.model, self.setting
        forget_set = door.forget_set()
        objective = TextObjective.of(setting.objective)
        rows, misses = [], []
        with evaluating(model), every_position():
            for batch in objective.batches(forget_set, 64):
                attributions, difference = integrated_gradients(model, objective, batch, self._mask, config.steps)
                misses.append((attributions.sum(1) - difference).abs() / difference.abs().clamp(min=1e-6))
                rows.append(masked(batch, attributions, config.share, config.tokens, self._mask, self._end))
        model.drop_gradient()
        hook = Poison(forget_set.ids, torch.cat(rows), setting.num_samples)
        outcome = fit(model, setting.objective, retained.joined(forget_set), config, key, [hook])
        passed = len(forget_set) * config.steps
        cost = Outcome(forward=passed + 4 * len(forget_set), backward=passed)
        miss = float(torch.cat(misses).median())
        return (outcome + cost + finish(config, learner, retained)).noted(attribution_miss=miss)
