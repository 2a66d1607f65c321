"""What unlearners share that lower knowledge of the forget set while they hold on to retained data, step by step."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self, final

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import token_divergences
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.first_reference import FirstReference
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.endless import supply
from strategies.parts.training.optimizers import Beta, Optimizer
from strategies.parts.training.ragged import rows_together
from strategies.unlearners._retained import RetainedData, retained_access, retained_data
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key

Holding = Literal["none", "descent", "kl"]
Positions = Literal["answer", "all"]
RetainLoss = Callable[[Batch, FlatModel], torch.Tensor]
"""Passes a retained batch through a model, and returns the scalar to lower."""


class PairsConfig(FitConfig):
    """Options of steps on a batch of the forget set and, if wanted, one of retained data."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step, of each kind."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    """Decay rates of `adam`'s moments."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Scale a gradient down to that norm if it is longer; null leaves it."""
    forget_weight: float = Field(1.0, ge=0)
    """gamma, the weight of the forget loss."""
    retain_weight: float = Field(1.0, ge=0)
    """alpha, the weight of the retained loss."""
    retained: RetainedData = "full"
    """Hold on to all live data, to what the learner's plugins keep (a replay memory), or to what its selection drew
    last."""


class PairedConfig(PairsConfig):
    """How the forget set is worked on, and what is done with retained data."""

    retain: Holding = "descent"
    """What is done with retained data. none: nothing, and none is read. descent: its loss is lowered (GD, RT). kl: the
    model is held to what it said before the request, KL(before || now)."""
    kl_positions: Positions = "answer"
    """Where in text `retain: kl` compares. answer: at the tokens that are unlearned on (`objective.forget_on`), reduced
    as `objective.reduction` says. all: as published (TOFU, NPO, OpenUnlearning), at every position of the batch,
    prompts, the last one and padding too; the sum over positions is divided by rows times the longest row."""

    @model_validator(mode="after")
    def _positions_are_used(self) -> Self:
        return self.only_with_kl("kl_positions", "all")

    def only_with_kl(self, option: str, value: str) -> Self:
        """Refuse a value of an option that says how `retain: kl` works where `retain` is another."""
        if getattr(self, option) == value and self.retain != "kl":
            raise ValueError(
                f"{option}: {value} is about retain: kl, and retain is {self.retain}; set retain: kl, or leave "
                f"{option} out"
            )
        return self


class ReferencedConfig(PairedConfig):
    """Options of what compares the model with what it was before."""

    reference: Literal["request", "first"] = "request"
    """What the model is compared with, here and with `retain: kl`. request: itself when the request comes (MUSE's
    code). first: itself when the first request came, which the plugin `first-reference` keeps; then what earlier
    requests broke is pulled back, and what they forgot as well."""


class PairedUnlearner(Unlearner):
    """Minimises gamma L_forget + alpha L_retain over passes of the forget set. Derived classes say what L_forget is."""

    config: Any

    def __init__(self, config: PairedConfig, setting: Setting) -> None:
        """Keep the options.

        Raises:
            ConfigError: retained data is to be held to distributions, and the model predicts none; or to those of all
                positions, and it predicts no tokens.
        """
        super().__init__(config, setting)
        if config.kl_positions == "all":
            TextObjective.of(setting.objective)
        objective = setting.objective
        has_none = objective.predicts in ("numbers", "images") and type(objective).divergences is Objective.divergences
        if config.retain == "kl" and has_none:
            raise ConfigError(
                f"unlearner.retain: kl holds the model to distributions, and {type(objective).__name__} defines no "
                f"divergences; set retain: descent."
            )

    @property
    @override
    def access(self) -> Access:
        if self.config.retain == "none":
            return Access(forget_set=True)
        return retained_access(self.config.retained, forget_set=True)

    def reference(self, learner: Learner) -> FlatModel:
        """Return what the model is compared with: itself as it is now."""
        return learner.model

    @abstractmethod
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        """Return the forget loss of this request, and what preparing it cost.

        Args:
            reference: what the model is compared with.
            objective: with the losses that unlearners work on.
            forget_set: what is to go.
            key: names the request's draws.
        """

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        key = self.setting.key / type(self).__name__ / request.name
        forget_set = door.forget_set()
        objective = self.setting.objective.training_on(forget_set)
        reference = self.reference(learner)
        forget_loss, cost = self.prepare(reference, objective, forget_set, key)
        retained = None if config.retain == "none" else retained_data(config.retained, learner, door)
        outcome = paired(
            self.setting, model, objective, forget_set, retained, config, forget_loss, key, reference=reference
        )
        return (cost + outcome).graded("none")


class ReferencedUnlearner(PairedUnlearner):
    """One whose reference may be the model as it was at the first request."""

    config: Any

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("first-reference",) if self.config.reference == "first" else ()

    @override
    def reference(self, learner: Learner) -> FlatModel:
        return learner.model if self.config.reference == "request" else learner.part(FirstReference).model


class ForgetLoss(ABC):
    """The loss of a batch of what is to be forgotten."""

    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch to pass in place of that of the forget set."""
        return batch

    @abstractmethod
    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar to lower."""


def divergence(
    objective: Objective, model: FlatModel, before: FlatModel, batch: Batch, positions: Positions
) -> torch.Tensor:
    """Return the scalar KL(before || now) of a batch, with gradient through the model alone.

    Args:
        objective: with the losses that unlearners work on.
        model, before: as it is now, and what it is held to.
        batch: of samples.
        positions: answer takes the objective's own divergences. all is the mean over all B x T positions of a batch of
            text, T the longest row; rows then pass together, so that the model speaks at padding, too.
    """
    with rows_together() if positions == "all" else contextlib.nullcontext():
        now = objective.outputs(model, batch)
        with torch.no_grad():
            then = objective.outputs(before, batch)
    if positions == "all":
        return token_divergences(now.flatten(0, 1), then.flatten(0, 1)).mean()
    return objective.divergences(now, then, batch).mean()


@final
class Pair(Hooks):
    """Replaces the loss by that of the pair of batches."""

    carries = ("_batches", "_terms", "retained")

    def __init__(
        self,
        objective: Objective,
        forget_loss: ForgetLoss,
        batches: Iterator[Batch] | None,
        before: FlatModel | None,
        gamma: float,
        alpha: float,
        kl_positions: Positions = "answer",
        held: RetainLoss | None = None,
    ) -> None:
        """Take what the loss is made of.

        Args:
            objective: with the losses that unlearners work on.
            forget_loss: of a batch of the forget set.
            batches: retained data, or None.
            before: what retained data is held to; None lowers its loss.
            gamma, alpha: weights of the forget and of the retained loss.
            kl_positions: see `PairedConfig`.
            held: the loss of retained data in place of the others.
        """
        self._objective, self._forget_loss, self._batches, self._before = objective, forget_loss, batches, before
        self._gamma, self._alpha, self._kl_positions, self._held = gamma, alpha, kl_positions, held
        self._terms: dict[str, list[torch.Tensor]] = {"forget": [], "retain": []}
        self.retained = 0

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        return self._forget_loss.extend(batch, step)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return gamma L_forget + alpha L_retain."""
        forget = self._forget_loss(outputs, batch, model)
        self._terms["forget"].append(forget.detach())
        if self._batches is None:
            return self._gamma * forget
        retained_batch = next(self._batches)
        self.retained += len(retained_batch)
        if self._held is not None:
            retain = self._held(retained_batch, model)
        elif self._before is None:
            retain = self._objective.losses(self._objective.outputs(model, retained_batch), retained_batch).mean()
        else:
            retain = divergence(self._objective, model, self._before, retained_batch, self._kl_positions)
        self._terms["retain"].append(retain.detach())
        return self._gamma * forget + self._alpha * retain

    def means(self, steps: int) -> dict[str, float]:
        """Return the mean of both terms over the last `steps` steps."""
        return {name: float(torch.stack(v[-steps:]).mean()) for name, v in self._terms.items() if v}


def paired(
    setting: Setting,
    model: FlatModel,
    objective: Objective,
    forget_set: Data,
    retained: Data | None,
    config: PairedConfig,
    forget_loss: ForgetLoss,
    key: Key,
    steps: Optimizer | None = None,
    reference: FlatModel | None = None,
    held: RetainLoss | None = None,
) -> Outcome:
    """Minimise gamma L_forget + alpha L_retain over passes of the forget set, and return what it cost.

    Args:
        setting: for a copy of the model, if retained data is held to its outputs.
        model: changed in place.
        objective: with the losses that unlearners work on.
        forget_set, retained: a batch of each per step; without retained data the forget loss alone.
        config: how.
        forget_loss: of a batch of the forget set.
        key: names orders and noise.
        steps: takes the steps in place of the configured optimizer.
        reference: what retained data is held to by `kl`; None is the model as it is.
        held: a loss of retained data, made of the model and one that stays, in place of what `config` says.
    """
    batches = supply(objective, retained, config.batch_size, key)
    before = None
    if config.retain == "kl" and batches is not None:
        before = frozen_copy(setting, model) if reference is None or reference is model else reference
    hook = Pair(
        objective, forget_loss, batches, before, config.forget_weight, config.retain_weight, config.kl_positions, held
    )
    outcome = fit(model, objective, forget_set, config, key, [hook], steps)
    passes = 1 if before is None and held is None else 2
    extra = Outcome(
        forward=hook.retained * passes, backward=hook.retained, losses=hook.means(outcome.steps // config.epochs)
    )
    return outcome + extra
