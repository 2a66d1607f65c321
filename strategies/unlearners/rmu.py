"""RMU: steer hidden states of the forget set to a random direction, and hold those of retained data where they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._text import Tokens
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.endless import supply
from strategies.parts.weights.blocks import blocks_of, check_block
from strategies.ranges import TRAINED_ON_TEXT, log
from strategies.unlearners._retained import ReadsRetained, RetainedData, retained_data
from strategies.unlearners._steering import Steering, steering
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest


class Config(FitConfig):
    """Options of `rmu` (Li et al. 2024, arXiv 2403.03218)."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step, of each kind."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 5e-5."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Scale a gradient down to that norm if it is longer; null leaves it."""
    block: int | None = Field(None, ge=0)
    """Block whose output is steered, from 0; null takes the one in the middle (the lower of two)."""
    steering: float = Field(2.0, gt=0)
    """c as a multiple of the mean norm of the forget set's hidden states. Published for 7 billion: c = 6.5."""
    retain_weight: float = Field(10.0, ge=0)
    """alpha, the weight of the retained term. Published for 7 billion: 1200."""
    weights: Literal["down", "all"] = "down"
    """down: the down-projections of the steered block and of the two below it, as published. all: every weight, as
    OpenUnlearning does for TOFU; models of two blocks need it, since `down` moves a single matrix there."""
    positions: Tokens = "answer"
    """Tokens whose hidden states are steered and held: those of the answers, or all."""
    retained: RetainedData = "full"
    """Hold on to all live data, or to what the learner's plugins keep (a replay memory)."""


DOWN = re.compile(r"\.(?:layers|h)\.(\d+)\..*\b(?:down_proj|c_proj|w2)\b")
"""Path of a block's down-projection in transformers; in GPT-2 of attention too, which `down_projections` skips."""


@final
class _Steer(Hooks):
    """Replaces the loss, and lets the gradient of the chosen weights alone through (clipping measures that)."""

    carries = ("_batches", "retained")

    def __init__(
        self, steering: Steering, batches: Iterator[Batch] | None, mask: torch.Tensor, retain_weight: float
    ) -> None:
        self._steering, self._batches, self._mask, self._retain_weight = steering, batches, mask, retain_weight
        self.retained = 0

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return mean ||h - c u||^2 + alpha mean ||h - h_before||^2."""
        total = self._steering(outputs, batch, model)
        if self._batches is None:
            return total
        retained_batch = next(self._batches)
        self.retained += len(retained_batch)
        return total + self._retain_weight * self._steering.held(retained_batch, model)

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient.mul_(self._mask)


def down_projections(model: FlatModel, block: int) -> torch.Tensor:
    """Return a float mask ``[P]`` of the down-projections of `block` and of the two below it.

    Raises:
        ConfigError: the model has none by the names that transformers uses.
    """
    mask = torch.zeros_like(model.parameters)
    for name, where in model.slices.items():
        projection = DOWN.search(name)
        if projection and ".attn." not in name and block - 2 <= int(projection[1]) <= block:
            mask[where] = 1.0
    if not bool(mask.any()):
        raise ConfigError("unlearner.weights: 'down' finds no down-projection in this model; use all.")
    return mask


@final
class RMU(ReadsRetained):
    """Representation misdirection."""

    test_options = {"epochs": 1, "block": 0}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {"steering": log(0.5, 10.0), "retain_weight": log(1.0, 1200.0)}

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        key = self.setting.key / "rmu" / request.name
        forget_set = door.forget_set()
        retained = retained_data(config.retained, learner, door)
        objective = self.setting.objective
        batches = supply(objective, retained, config.batch_size, key)
        before = frozen_copy(self.setting, model)
        blocks = blocks_of(model)
        block = (len(blocks) - 1) // 2 if config.block is None else config.block
        check_block(blocks, block, "unlearner.block")
        mask = torch.ones_like(model.parameters) if config.weights == "all" else down_projections(model, block)
        with (
            steering(model, before, block, objective, forget_set, config.steering, config.positions, key) as both_terms,
            model.moving_only(mask.bool()),  # weight decay moves what has no gradient
        ):
            hook = _Steer(both_terms, batches, mask, config.retain_weight)
            outcome = fit(model, objective, forget_set, config, key, [hook])
        extra = Outcome(forward=2 * hook.retained + len(forget_set), backward=hook.retained)
        return (outcome + extra).graded("none")
