"""MUDMAN: unlearn by the gradients of an adversary that relearns, where that does not hurt what is retained."""

from __future__ import annotations

from functools import partial
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective, Scored
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import precise
from strategies.parts.fit import FitConfig
from strategies.parts.model import FlatModel
from strategies.parts.passes import passes
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.endless import supply
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.weights.fisher import gradient_of
from strategies.ranges import linear, log
from strategies.unlearners._retained import ReadsRetained, RetainedData, retained_data
from streams.data import Batch
from streams.events import DeletionRequest

Forgetting = Literal["entropy", "descent", "logit"]


class Config(FitConfig):
    """Options of `mudman` (Sondej et al. 2025, arXiv 2506.12484).

    The optimizer is that of the unlearning step (published: plain SGD). Rates are for models of a million weights.
    """

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step, of each kind."""
    lr: float = Field(0.03, gt=0)
    """eta_u, of the unlearning step (published range for 135 million: 1e-7 to 0.3)."""
    retain_lr: float = Field(1e-3, ge=0)
    """eta_r, of the step that lowers the retained loss (published: 1e-4 to 1e-2)."""
    adversary_lr: float = Field(3e-3, ge=0)
    """eta_a, of the adversary's step, which learns the forget set (published: 3e-4 to 0.1)."""
    mu: float = Field(0.8, ge=0, lt=1)
    """Decay of the running mean of retained gradients."""
    fork: int = Field(32, ge=1)
    """The adversary is a new copy of the model after every so many steps."""
    loss: Forgetting = "entropy"
    """What is lowered at the adversary: minus the entropy of answer tokens; their loss with a minus; or the true
    logit minus the mean of all."""
    masked: bool = True
    """Whether only those weights move whose unlearning and retained gradients have the same sign, so that the step
    lowers the retained loss too, to first order."""
    norm: Literal["masked", "released"] = "masked"
    """Every step is as long as the first gradient: under the mask (masked), or before it, so that a step shrinks with
    what is masked (released)."""
    retained: RetainedData = "full"
    """Hold on to all live data, or to what the learner's plugins keep (a replay memory)."""


def forgetting(scored_tokens: Scored, kind: Forgetting) -> torch.Tensor:
    """Return what is lowered, of every position ``[S]``."""
    values = precise(scored_tokens.logits)
    if kind == "descent":
        return -scored_tokens.token_losses()
    if kind == "entropy":
        log_p = values.log_softmax(1)
        return (log_p.exp() * log_p).sum(1)
    return values.gather(1, scored_tokens.targets.unsqueeze(1)).squeeze(1) - values.mean(1)


def agreeing(gradient: torch.Tensor, retained: torch.Tensor) -> torch.Tensor:
    """Return the gradient ``[P]`` where it has the sign of `retained`, and 0 elsewhere.

    A step against what is left cannot raise the retained loss to first order: the product of both has no negative term.
    """
    return torch.where(gradient.sign() == retained.sign(), gradient, torch.zeros_like(gradient))


def mean_of(objective: TextObjective, model: FlatModel, batch: Batch, kind: Forgetting) -> torch.Tensor:
    """Return the mean over a batch of what is lowered, with gradient."""
    scored_tokens = objective.scored(objective.outputs(model, batch), batch)
    values = forgetting(scored_tokens, kind)
    return objective.reduce(scored_tokens.sums(values), scored_tokens.counts).mean()


def mean_loss(objective: Objective, model: FlatModel, batch: Batch) -> torch.Tensor:
    """Return the mean loss of a batch, with gradient."""
    return objective.losses(objective.outputs(model, batch), batch).mean()


@final
class MUDMAN(ReadsRetained):
    """Meta-unlearning with disruption masking and normalisation. The adversary is gone when the request is served."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = {
        "lr": log(1e-3, 0.3),
        "retain_lr": log(1e-4, 1e-2),
        "adversary_lr": log(3e-4, 0.1),
        "mu": linear(0.0, 0.99),
        "fork": linear(6, 42),
    }

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        key = self.setting.key / "mudman" / request.name
        forget_set = door.forget_set()
        objective = TextObjective.of(self.setting.objective.training_on(forget_set))
        retained = retained_data(config.retained, learner, door)
        batches = supply(objective, retained, config.batch_size, key)
        adversary, optimizer = frozen_copy(self.setting, model), make_optimizer(config, model.parameters)
        mean, first = torch.zeros_like(model.parameters), model.parameters.new_zeros(())
        passed = torch.zeros((), dtype=torch.long)  # retained samples
        whole = objective.batches(forget_set, config.batch_size)[0]
        loss_of = partial(_loss_of_part, objective, model, whole, config.loss)
        moving = [optimizer, adversary, mean, first, passed, *([] if batches is None else [batches])]
        with passes(model, config, key / "noise", loss_of, moving) as steps:
            for batch in steps.over(forget_set, key):
                if steps.number % config.fork == 0:
                    adversary.take_over(model)
                if batches is not None:
                    kept = next(batches)
                    passed += len(kept)
                    slope = gradient_of(model, mean_loss(objective, model, kept))
                    mean.mul_(config.mu).add_(slope, alpha=1 - config.mu)
                    model.parameters.sub_(mean, alpha=config.retain_lr)
                    model.hold()
                if config.adversary_lr:
                    learned = gradient_of(adversary, mean_loss(objective, adversary, batch))
                    adversary.parameters.sub_(learned, alpha=config.adversary_lr)
                loss = mean_of(objective, adversary, batch, config.loss)
                gradient = gradient_of(adversary, loss)
                if steps.number == 0:
                    first.copy_(gradient.norm())
                length = gradient.norm()
                if config.masked and batches is not None:
                    gradient = agreeing(gradient, mean)
                    length = length if config.norm == "released" else gradient.norm()
                gradient.mul_(first / length.clamp(min=1e-12))
                optimizer.step(model.parameters, steps.clip(gradient))
                model.hold()
                steps.samples += 2 * len(batch) if config.adversary_lr else len(batch)
                steps.done(loss)
            outcome = steps.outcome(model.parameters)
        return (outcome + Outcome(forward=int(passed), backward=int(passed))).graded("none")


def _loss_of_part(
    objective: TextObjective, model: FlatModel, batch: Batch, kind: Forgetting, size: int
) -> torch.Tensor:
    return mean_of(objective, model, batch.part(0, size), kind)
