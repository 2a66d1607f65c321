"""PDU: flatten the logits of what is to go under a stated bound on the retained loss, which a multiplier enforces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import Objective
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import precise
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.first_reference import FirstReference
from strategies.parts.training.endless import supply
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import TRAINED_ON_TEXT, linear, log
from strategies.unlearners._retained import ReadsRetained, RetainedData, retained_data
from streams.data import Batch, Data
from streams.events import DeletionRequest


class Config(FitConfig):
    """Options of `pdu` (Entesari et al. 2025, arXiv 2506.05314)."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step, of each kind."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 1e-5."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Scale a gradient down to that norm if it is longer; null leaves it."""
    slack: float = Field(0.1, ge=0)
    """The retained loss may be (1 + slack) times what it was (published as a number chosen by hand: 0.1 to 1.5)."""
    budget: Literal["request", "stream"] = "request"
    """What it was: when this request came, so that it may grow by a factor of 1 + slack each time; or in the model as
    it was when the first request came (stream), which the plugin `first-reference` keeps."""
    start: float = Field(50.0, ge=0)
    """lambda_0, the multiplier's first value (published: 100 on TOFU, 50 on MUSE)."""
    rate: float = Field(1.0, ge=0)
    """eta, how fast it moves: lambda <- max(0, lambda + eta (retained loss - bound)) after each step (published: 5 and
    1)."""
    most: float = Field(1000.0, gt=0)
    """It rises to that at most, where the bound cannot be kept."""
    warm_up: float = Field(0.5, ge=0, le=1)
    """Share of the steps in which it stays where it is."""
    memory: float = Field(0.9, ge=0, lt=1)
    """Decay of the running mean of the retained loss that moves it."""
    retained: RetainedData = "full"
    """Hold on to all live data, or to what the learner's plugins keep (a replay memory)."""


def flatness(logits: torch.Tensor) -> torch.Tensor:
    """Return (max_v z_v - mean_v z_v)^2 of every position, ``[S]``: 0 where all tokens are as likely.

    >>> flatness(torch.tensor([[2.0, 1.0, 0.0], [3.0, 3.0, 3.0]])).tolist()
    [1.0, 0.0]
    """
    values = precise(logits)
    return (values.amax(1) - values.mean(1)).square()


@final
class Multiplier(Hooks):
    """Replaces the loss by L_forget + lambda L_retained, and moves lambda by how far the bound is missed."""

    carries = ("_batches", "value", "running", "_step", "retained")

    def __init__(
        self, objective: TextObjective, batches: Iterator[Batch] | None, bound: float, config: Config, steps: int
    ) -> None:
        """Begin at lambda_0; `steps` are those of the request."""
        self._objective, self._batches, self._bound, self._config = objective, batches, bound, config
        self._rest = round(config.warm_up * steps)
        self.value, self.running = config.start, bound
        self._step = self.retained = 0
        self._seen = bound

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the Lagrangian; its constant does not matter to the weights."""
        scored_tokens = self._objective.scored(outputs, batch)
        flat = flatness(scored_tokens.logits)
        forget = self._objective.reduce(scored_tokens.sums(flat), scored_tokens.counts).mean()
        if self._batches is None:
            return forget
        retained_batch = next(self._batches)
        self.retained += len(retained_batch)
        retain = self._objective.losses(self._objective.outputs(model, retained_batch), retained_batch).mean()
        self._seen = float(retain.detach())
        return forget + self.value * retain

    @override
    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        """Move lambda."""
        config = self._config
        self.running = config.memory * self.running + (1 - config.memory) * self._seen
        self._step += 1
        if self._step > self._rest and self._batches is not None:
            self.value = min(config.most, max(0.0, self.value + config.rate * (self.running - self._bound)))


@torch.no_grad()
def mean_loss(model: FlatModel, objective: Objective, data: Data, batch_size: int = 64) -> float:
    """Return the mean loss of all samples, in evaluation mode."""
    with evaluating(model):
        parts = [objective.losses(objective.outputs(model, b), b) for b in objective.batches(data, batch_size)]
    return float(torch.cat(parts).mean())


@final
class PDU(ReadsRetained):
    """Primal-dual unlearning: the retained loss is a constraint, and not a weighed term."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {
        "slack": log(0.02, 0.5),
        "start": log(1.0, 100.0),
        "rate": log(0.1, 5.0),
        "warm_up": linear(0.0, 0.5),
    }

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("first-reference",) if self.config.budget == "stream" else ()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        key = self.setting.key / "pdu" / request.name
        forget_set = door.forget_set()
        objective = TextObjective.of(self.setting.objective.training_on(forget_set))
        retained = retained_data(config.retained, learner, door)
        batches, bound = supply(objective, retained, config.batch_size, key), 0.0
        if batches is not None:
            first = learner.part(FirstReference).model if config.budget == "stream" else model
            bound = (1 + config.slack) * mean_loss(first, objective, retained)
        hook = Multiplier(objective, batches, bound, config, config.num_steps(len(forget_set)))
        outcome = fit(model, objective, forget_set, config, key, [hook])
        extra = Outcome(forward=hook.retained + len(retained), backward=hook.retained)
        return (outcome + extra).noted(multiplier=hook.value, retained_bound=bound).graded("none")
