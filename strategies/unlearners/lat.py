"""LAT: refuse and forget also where an adversary pushes hidden states towards what is to be forgotten."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import precise
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals, Values
from strategies.parts.training.endless import supply
from strategies.parts.training.optimizers import OptimizerConfig, make_optimizer
from strategies.parts.weights.blocks import blocks_of, check_block
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, Pair, PairsConfig
from strategies.unlearners._retained import retained_access, retained_data
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key
from streams.text import GIVEN

FLOOR = -5.0
"""Log-probability below which a token counts as forgotten."""
_BLOCK = re.compile(r"\.(?:layers|h)\.(\d+)\.")
"""Path of a block's weights in transformers."""


class Config(PairsConfig):
    """Options of `lat` (Sheshadri et al. 2024, arXiv 2407.15549), targeted latent adversarial training.

    `forget_weight` weighs both terms of the defence, `retain_weight` the loss of retained data (sft).
    """

    epochs: int = Field(5, ge=1)
    """Passes over the forget set."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 5e-5."""
    retain: Literal["none", "descent"] = "descent"
    """What is done with retained data. none: nothing, and none is read. descent: its loss is lowered, without any
    adversary."""
    block: int = Field(0, ge=0)
    """Block whose output the adversary perturbs, from 0. Published: 12 of 32, or 7."""
    weights: Literal["all", "above"] = "all"
    """Which weights are trained: all, or those of the blocks above the perturbed one."""
    radius: float = Field(0.3, ge=0)
    """Longest perturbation of a token, as a multiple of the mean length of the states there. 0 is no adversary."""
    attack_steps: int = Field(16, ge=1)
    """Steps of the adversary per batch."""
    attack_lr: float = Field(5e-2, gt=0)
    """Its learning rate (Adam, from zero)."""
    defence_steps: int = Field(4, ge=1)
    """Steps of the model against one perturbation of a batch."""
    attack_toward: float = Field(1.0, ge=0)
    """Weight of the adversary's pull towards true answers."""
    attack_away: float = Field(0.0, ge=0)
    """Weight of its push away from refusals."""
    toward: float = Field(1.0, ge=0)
    """Weight of the model's pull towards refusals."""
    away: float = Field(1.0, ge=0)
    """Weight of its push away from true answers, which ends at a log-probability of -5."""


def away_losses(logits: torch.Tensor, targets: torch.Tensor, floor: float | None = None) -> torch.Tensor:
    """Return -log(1 - p(y)) of every token, ``[S]``; 0 where log p(y) is below `floor` already.

    Args:
        logits: ``[S, V]``.
        targets: int64 ``[S]``.
        floor: log-probability at which it is enough; None never ends.
    """
    logits = precise(logits)
    log_total = logits.logsumexp(1)
    log_others = logits.scatter(1, targets.unsqueeze(1), float("-inf")).logsumexp(1)
    losses = log_total - log_others
    if floor is None:
        return losses
    log_p = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - log_total
    return losses * (log_p.detach() >= floor)


def project(delta: torch.Tensor, radius: float) -> torch.Tensor:
    """Return ``delta [B, T, d]`` with every token's perturbation cut to a length of `radius`."""
    length = delta.norm(dim=2, keepdim=True)
    return delta * (radius / length.clamp(min=1e-12)).clamp(max=1.0)


@final
class Perturbation:
    """Adds something to what a block returns, while it is on."""

    def __init__(self, block: nn.Module) -> None:
        """Put the hook in place; nothing is added yet."""
        self.delta: torch.Tensor | None = None
        self.state = torch.zeros(0)
        self._handle = block.register_forward_hook(self._add)

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def _add(self, module: nn.Module, args: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        self.state = state
        if self.delta is None:
            return None
        state = state + fitted(self.delta, state.shape[1])
        return (state, *output[1:]) if isinstance(output, tuple) else state


def fitted(delta: torch.Tensor, length: int) -> torch.Tensor:
    """Return ``delta [B, T, d]`` cut or padded with zeros to `length` positions."""
    return nn.functional.pad(delta[:, :length], (0, 0, 0, max(0, length - delta.shape[1])))


@final
class Defend(ForgetLoss):
    """Towards refusals and away from true answers, under the adversary's perturbation of the prompts."""

    def __init__(
        self, objective: TextObjective, refusals: Refusals, config: Config, perturbation: Perturbation
    ) -> None:
        """Start without an adversary; `deltas` are its perturbations of the samples at hand."""
        self._objective, self._refusals, self._config, self._perturbation = objective, refusals, config, perturbation
        self.deltas: Values | None = None

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return true answers followed by refusals, and let the adversary in."""
        if self.deltas is not None:
            delta = self.deltas.of(batch)
            self._perturbation.delta = torch.cat([delta, delta])
        return self._refusals.beside(batch, self._refusals.drawn(batch, 0))

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower; retained data is passed without the adversary."""
        self._perturbation.delta = None
        half = len(batch) // 2
        true = self._objective.scored(outputs[:half], batch.part(0, half))
        toward = self._objective.losses(outputs[half:], batch.part(half)).mean()
        away = away_losses(true.logits, true.targets, FLOOR).mean()
        return self._config.toward * toward + self._config.away * away


@final
class LAT(Unlearner):
    """Trains against perturbations of a block's output that bring true answers back, batch by batch."""

    test_options = {"epochs": 1, "attack_steps": 2, "defence_steps": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT | {"radius": log(0.03, 3.0), "away": log(0.1, 10.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Need text.

        Raises:
            ConfigError: the block is not there, or nothing above it.
        """
        super().__init__(config, setting)
        self._objective = TextObjective.of(setting.objective)
        blocks = blocks_of(setting.outline())
        check_block(blocks, config.block, "unlearner.block")
        if config.weights == "above" and config.block == len(blocks) - 1:
            raise ConfigError(
                f"unlearner.weights: above block {config.block}, the last one, there is nothing to train. Choose a "
                f"lower block, or weights: all."
            )

    @property
    @override
    def access(self) -> Access:
        if self.config.retain == "none":
            return Access(forget_set=True)
        return retained_access(self.config.retained, forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model, objective = self.config, learner.model, self._objective
        key = self.setting.key / "lat" / request.name
        forget_set = door.forget_set()
        retained = None if config.retain == "none" else retained_data(config.retained, learner, door)
        retained_batches = supply(objective, retained, config.batch_size, key)
        optimizer = make_optimizer(config, model.parameters)
        steps = config.model_copy(update={"epochs": config.defence_steps})
        outcome = Outcome()
        with self._hooked(model) as perturbation, self._moving(model):
            loss = Defend(objective, Refusals(objective, key), config, perturbation)
            for epoch in range(config.epochs):
                for number, part in enumerate(parts(forget_set, config.batch_size, key / "epoch" / epoch)):
                    loss.deltas, cost = attack(model, objective, part, loss, perturbation, config)
                    pair = Pair(objective, loss, retained_batches, None, config.forget_weight, config.retain_weight)
                    named = key / "defence" / epoch / number
                    outcome += cost + fit(model, objective, part, steps, named, [pair], optimizer)
                    num_retained = pair.retained
                    outcome += Outcome(
                        forward=num_retained, backward=num_retained, losses=pair.means(config.defence_steps)
                    )
        return outcome.graded("none")

    @contextlib.contextmanager
    def _hooked(self, model: FlatModel) -> Iterator[Perturbation]:
        perturbation = Perturbation(blocks_of(model)[self.config.block])
        try:
            yield perturbation
        finally:
            perturbation.close()

    @contextlib.contextmanager
    def _moving(self, model: FlatModel) -> Iterator[None]:
        if self.config.weights == "all":
            yield
            return
        movable = torch.zeros_like(model.parameters, dtype=torch.bool)
        for name, where in model.slices.items():
            block = _BLOCK.search(name)
            movable[where] = block is not None and int(block[1]) > self.config.block
        with model.moving_only(movable):
            yield


def parts(data: Data, size: int, key: Key) -> list[Data]:
    """Return the data in parts of `size`, shuffled by `key`."""
    return [data.part(np.sort(p.cpu().numpy())) for p in data.positions(key).split(size)]


def attack(
    model: FlatModel, objective: TextObjective, data: Data, loss: Defend, perturbation: Perturbation, config: Config
) -> tuple[Values | None, Outcome]:
    """Return a perturbation of every sample's prompt, ``[n, T, d]``, that brings the true answers back.

    The weights do not move, and nothing is left of the attack in their gradient.
    """
    if not config.radius:
        return None, Outcome()
    model.train(False)
    loss.deltas = None
    batch = data.all()
    with_refusals = loss.extend(batch, 0)
    with torch.no_grad():
        model.features(*batch.inputs)
    state = perturbation.state
    is_prompt = (batch.x[:, 1, : state.shape[1]] == GIVEN).unsqueeze(2)
    radius = config.radius * float(state.norm(dim=2)[is_prompt.squeeze(2)].mean())
    delta = torch.zeros_like(state)
    adam = make_optimizer(OptimizerConfig(optimizer="adam", lr=config.attack_lr), delta.flatten())
    half = len(batch)
    for _ in range(config.attack_steps):
        free = delta.clone().requires_grad_(True)
        perturbation.delta = torch.cat([free * is_prompt, free * is_prompt])
        outputs = objective.outputs(model, with_refusals)
        perturbation.delta = None
        aim = config.attack_toward * objective.losses(outputs[:half], with_refusals.part(0, half)).mean()
        if config.attack_away:
            refused = objective.scored(outputs[half:], with_refusals.part(half))
            aim = aim + config.attack_away * away_losses(refused.logits, refused.targets).mean()
        (slope,) = torch.autograd.grad(aim, free)
        flat = delta.flatten()
        adam.step(flat, slope.flatten())
        delta = project(flat.view_as(delta) * is_prompt, radius)
    passed = 2 * half * config.attack_steps + half
    return Values(data.ids, delta), Outcome(forward=passed, backward=passed - half)
