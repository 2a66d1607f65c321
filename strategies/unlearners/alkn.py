"""ALKN: subtract what learning the forget set adds to the weights, where a mask learned from the data lets it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._text import TextObjective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.optimizers import Optimizer, make_optimizer
from strategies.parts.weights.fisher import loss_gradient
from strategies.parts.weights.masks import MaskLog
from strategies.parts.weights.ranks import kth_smallest
from strategies.ranges import linear, log
from strategies.unlearners._negated import negated
from strategies.unlearners._retained import ReadsRetained, RetainedData, retained_data
from streams.data import Batch
from streams.events import DeletionRequest

MIDDLE = 0.8
"""Initial probability of a token at which its weight grows fastest."""


class Config(FitConfig):
    """Options of `alkn` (Wuerkaixi et al. 2025, ICML), after the released code."""

    epochs: int = Field(5, ge=1)
    """Passes over the forget set with which the copy is trained."""
    batch_size: int = Field(16, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 2e-5."""
    alpha: float = Field(1.0, ge=0)
    """c in theta - c (theta_learned - theta)."""
    sharpness: float | None = Field(1.5, gt=0)
    """k in the weight of a token, sigmoid(k (p - 0.8)) - sigmoid(-0.8 k), p being its probability before the request.
    null gives all tokens the weight 1."""
    unmask: float = Field(0.8, gt=0, le=1)
    """Share of each tensor's weights that may move in the first steps. With `unmask_last: 1` there is no mask."""
    unmask_last: float = Field(0.4, gt=0, le=1)
    """Where that share falls to, in five stages over the steps."""
    keep: Literal["oppose", "agree"] = "oppose"
    """Which weights may move: those in which forgetting and retaining do not hurt each other (oppose: the gradients of
    both losses differ in sign, so that the negated step lowers the retained loss to first order), or the others (agree:
    the released code)."""
    penalty: float = Field(0.5, ge=0)
    """How far a weight falls behind that an earlier request was free to change, in spreads of its tensor's products."""
    low: float = Field(0.1, ge=0, le=1)
    """Factor of the learning rate of those tensors, half of them, that earlier requests changed most."""
    retained: RetainedData = "full"
    """The data whose gradient is taken once: all that is live, or what the learner's plugins keep (a replay memory)."""


def token_weights(probabilities: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Return w = sigmoid(k (p - 0.8)) - sigmoid(-0.8 k), of any shape: 0 for tokens that were not known.

    >>> [round(w, 2) for w in token_weights(torch.tensor([0.0, 0.5, 0.8, 1.0]), 1.5).tolist()]
    [0.0, 0.16, 0.27, 0.34]
    """
    low = torch.sigmoid(torch.tensor(-MIDDLE * sharpness))
    return torch.sigmoid((probabilities - MIDDLE) * sharpness) - low.to(probabilities)


def shares(start: float, last: float, steps: int) -> list[float]:
    """Return which share of the weights may move in each step: `start`, and less after every fifth of the steps.

    >>> [round(s, 2) for s in shares(0.8, 0.4, 10)]
    [0.8, 0.8, 0.72, 0.72, 0.64, 0.64, 0.56, 0.56, 0.48, 0.48]
    """
    stage = max(1, steps // 5)
    return [start - (start - last) * (step // stage * stage) / steps for step in range(steps)]


def threshold(values: torch.Tensor, share: float) -> torch.Tensor:
    """Return what a share of ``values [n]`` lies above, a scalar; -inf for all of them."""
    below = len(values) - round(share * len(values))
    return kth_smallest(values, below) if below else values.new_tensor(float("-inf"))


@final
class _Held(Optimizer):
    """Takes another optimizer's steps times a factor for each weight; with 0 a weight stays to the bit."""

    def __init__(self, inner: Optimizer, like: torch.Tensor) -> None:
        self._inner, self.factors = inner, torch.ones_like(like)

    @torch.no_grad()
    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        before = parameters.clone()
        self._inner.step(parameters, gradient)
        torch.where(self.factors == 1, parameters, before + self.factors * (parameters - before), out=parameters)

    @override
    def state_dict(self) -> dict[str, object]:
        return self._inner.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state)


@final
class Localised(Hooks):
    """Lowers a weighted loss, and lets only those weights move that a running score says."""

    carries = ("_score", "thresholds", "_step")

    def __init__(
        self,
        objective: TextObjective,
        before: FlatModel,
        retained: torch.Tensor | None,
        log: MaskLog,
        held: _Held,
        shares: list[float],
        config: Config,
    ) -> None:
        """Take what decides.

        Args:
            objective: that is unlearned on.
            before: the frozen model, for the probabilities before the request.
            retained: gradient of the retained loss at that model, ``[P]``; None masks nothing.
            log: of earlier requests.
            held: the optimizer, whose factors are set.
            shares: of the weights that may move, by step.
            config: the options.
        """
        self._objective, self._before, self._retained, self._log = objective, before, retained, log
        self._held, self._shares, self._config = held, shares, config
        self._parts = list(before.slices.values())
        self._rates = torch.ones_like(before.parameters)
        self._score = torch.zeros_like(before.parameters)
        self.thresholds = log.thresholds.clone()
        self._step = 0
        if not log.is_first:
            used = torch.stack([log.used[p].float().mean() for p in self._parts])
            for place in used.argsort(stable=True)[len(used) // 2 :].tolist():
                self._rates[self._parts[place]] = config.low
        held.factors.copy_(self._rates)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the mean of -w log p over tokens."""
        objective, config = self._objective, self._config
        scored_tokens = objective.scored(outputs, batch)
        losses = scored_tokens.token_losses()
        if config.sharpness is not None:
            with torch.no_grad():
                known = objective.scored(objective.outputs(self._before, batch), batch).token_losses().neg().exp()
            losses = token_weights(known, config.sharpness) * losses
        return objective.reduce(scored_tokens.sums(losses), scored_tokens.counts).mean()

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add to the scores, and mask."""
        share, self._step = self._shares[self._step], self._step + 1
        if self._retained is None:
            return gradient
        config, log = self._config, self._log
        product = gradient * self._retained
        self._score += product if config.keep == "agree" else -product
        if not log.is_first and config.penalty:
            for part in self._parts:
                values = product[part]
                self._score[part] -= config.penalty * values.std(correction=min(1, len(values) - 1)) * log.used[part]
        if log.is_first:
            self.thresholds = torch.stack([threshold(self._score[p], share) for p in self._parts])
        self._held.factors.copy_(self._rates * self.mask())
        return gradient.mul_(self._held.factors > 0)

    def mask(self) -> torch.Tensor:
        """Return which weights may move, as of the last step, bool ``[P]``."""
        mask = torch.ones_like(self._score, dtype=torch.bool)
        if self._retained is not None:
            for part, limit in zip(self._parts, self.thresholds, strict=True):
                mask[part] = self._score[part] > limit
        return mask


@final
class ALKN(ReadsRetained):
    """Localised negation. The plugin `mask-log` keeps which weights requests were free to change."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = {
        "lr": log(1e-5, 1e-3),
        "alpha": linear(0.2, 2.0),
        "sharpness": linear(1.0, 10.0),
        "unmask": linear(0.2, 0.95),
        "penalty": linear(0.0, 1.0),
        "low": linear(0.05, 1.0),
    }

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("mask-log",)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Train in place under the mask, then reflect."""
        config, model, log = self.config, learner.model, learner.part(MaskLog)
        key = self.setting.key / "alkn" / request.name
        forget_set, retained = door.forget_set(), retained_data(config.retained, learner, door)
        objective = TextObjective.of(self.setting.objective.training_on(forget_set))
        slope = loss_gradient(model, objective, retained) / len(retained) if len(retained) else None
        held = _Held(make_optimizer(config, model.parameters), model.parameters)
        steps = shares(config.unmask, config.unmask_last, config.num_steps(len(forget_set)))
        hook = Localised(objective, frozen_copy(self.setting, model), slope, log, held, steps, config)
        train = partial(fit, model, objective, forget_set, config, key, [hook], held)
        outcome = negated(model, config.alpha, train)
        mask = hook.mask()
        again = float((mask & log.used).float().mean())
        if slope is not None:
            log.add(mask, hook.thresholds)
        passed = len(forget_set) * config.epochs if config.sharpness is not None else 0
        cost = Outcome(forward=passed + len(retained), backward=len(retained))
        return (outcome + cost).noted(mask_free=float(mask.float().mean()), mask_again=again).graded("none")
