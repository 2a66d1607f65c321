"""GS-LoRA: low-rank changes of feed-forward layers push the forget set away, in as few blocks as will do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.objectives._base import Objective
from strategies.parts.fit import Hooks, fit
from strategies.parts.lowrank.changes import LowRankSteps, Matrix, check_rank, fresh_factors, matrices_by_path
from strategies.parts.model import FlatModel, is_in
from strategies.parts.teachers.divergence import kl_to
from strategies.parts.training.endless import Endless
from strategies.parts.training.rates import by_epoch, cosine
from strategies.parts.weights.blocks import stacks
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import LR, linear, log
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish, some_of_each
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key

LEAST_RATE = 1e-5
"""Learning rate that the cosine falls to, where it begins above it."""


class Config(RetainConfig):
    """Options of `gs-lora` (Zhao et al. 2024, arXiv 2403.11530; with prototypes GS-LoRA++, arXiv 2501.09705).

    Defaults are those with which the authors' scripts run, not those that their programs declare.
    """

    epochs: int = Field(100, ge=1)
    """Passes over the retained data; each step takes a batch of the forget set beside it."""
    batch_size: int = Field(48, ge=1)
    """Samples per step, of each kind."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule of the factors."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the first pass; it falls by a cosine, from one to the next, to 1e-5."""
    rank: int = Field(8, ge=1)
    """r, the rank of the changes."""
    scale: float = Field(1.0, gt=0)
    """A matrix changes by scale / r times the product of its factors."""
    beta: float = Field(0.2, ge=0)
    """Weight of the bounded forget loss. The authors choose one for each request; here it is one for all."""
    bound: float = Field(2.0, gt=0)
    """The loss of the forget set is pushed up to this times ln K, K the number of outputs. Published are 105 to 110 for
    a face recogniser whose logits are multiplied by 64."""
    alpha: float = Field(1e-4, ge=0)
    """Weight of the sum over blocks of the norm of all factors of a block."""
    per_class: int | None = Field(None, ge=1)
    """Learn from so many samples of each class only, of the forget set and of the retained data; 4 where data are few.
    null takes all."""
    away: float = Field(0.0, ge=0)
    """Weight of pushing features of the forget set away from the mean features that its classes had (GS-LoRA++: 0.01
    and more)."""
    near: float = Field(0.0, ge=0)
    """Weight of holding features of retained data to those of theirs (GS-LoRA++: 0)."""
    away_bound: float = Field(18.0, gt=0)
    """How far features of the forget set are pushed away, by KL(softmax of the mean || softmax of the features)."""


def groups_of(paths: list[str], stack: str) -> list[list[int]]:
    """Return which numbers of ``paths`` belong to the same block; without a stack of blocks each is by itself.

    >>> groups_of(["layers.0.mlp.up", "layers.0.mlp.down", "layers.1.mlp.up"], "layers"), groups_of(["1", "3"], "")
    ([[0, 1], [2]], [[0], [1]])
    """
    blocks = [path.removeprefix(f"{stack}.").split(".")[0] if stack else path for path in paths]
    return [[i for i, b in enumerate(blocks) if b == block] for block in dict.fromkeys(blocks)]


def feed_forward(model: FlatModel) -> tuple[list[Matrix], list[list[int]]]:
    """Return the matrices of feed-forward layers, and which of them form a block.

    These are all linear maps of the blocks but those of attention. In a body without blocks every linear map counts,
    and is a block by itself.

    Raises:
        ConfigError: there is none.
    """
    found = {path: m for path, m in matrices_by_path(model).items() if not is_in(f"body.{path}", "attention")}
    return list(found.values()), groups_of(list(found), next(iter(stacks(model.network.body)), ""))


def prototypes(model: FlatModel, objective: Objective, sets: tuple[Data, ...], batch_size: int) -> torch.Tensor:
    """Return the mean features of every class in evaluation mode, ``[K, F]``; zeros for classes without a sample."""
    total, counts = torch.zeros(0), torch.zeros(objective.num_outputs)
    with evaluating(model), torch.no_grad():
        for batch in (b for data in sets for b in objective.batches(data, batch_size)):
            features, labels = objective.features(model, batch), batch.y
            if not len(total):
                total = features.new_zeros(len(counts), features.shape[1])
                counts = counts.to(features)
            total.index_add_(0, labels, features)
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    return total / counts.clamp(min=1).unsqueeze(1)


def apart(features: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Return the mean of KL(softmax(mean) || softmax(features)) over samples, a scalar; both are ``[B, F]``."""
    log_q = means.log_softmax(1)
    return kl_to(features.log_softmax(1), log_q.exp(), log_q).mean()


@final
class Push(Hooks):
    """Adds beta relu(bound - loss of a batch of the forget set), and the terms with prototypes."""

    carries = ("_batches", "passed", "_forgotten")

    def __init__(
        self, objective: Objective, batches: Iterator[Batch], config: Config, bound: float, means: torch.Tensor | None
    ) -> None:
        """Push batches of the forget set away.

        Args:
            objective: in its form for the forget set.
            batches: of the forget set, without an end.
            config: the weights.
            bound: of the loss.
            means: of features by class, ``[K, F]``, or None.
        """
        self._objective, self._batches, self._config, self._bound = objective, batches, config, bound
        self._means, self._forgotten = means, torch.zeros(())
        self.passed = 0

    @property
    def forgotten(self) -> float:
        """The loss of the last batch of the forget set."""
        return float(self._forgotten)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        config, objective, own = self._config, self._objective, next(self._batches)
        forget_loss = objective.losses(objective.outputs(model, own), own).mean()
        self._forgotten = forget_loss.detach()
        self.passed += len(own)
        loss = loss + config.beta * (self._bound - forget_loss).relu()
        if self._means is not None:
            gone, kept = (apart(objective.features(model, b), self._means[b.y]) for b in (own, batch))
            loss = loss + config.away * (config.away_bound - gone).relu() + config.near * kept
            self.passed += len(own) + len(batch)
        return loss


@final
class GSLoRA(RetainUnlearner):
    """Group-sparse low-rank adaptation: factors of the feed-forward layers are trained, all other weights stay.

    It needs retained data, which its steps go over. It reads labels of both. What was trained is added to the weights
    when the request is served, and the next one begins with new factors.
    """

    test_options = {"epochs": 1, "rank": 2, "batch_size": 16, "near": 0.1, "away": 0.1}
    config: Config
    supports = frozenset({"classes"})
    ranges = {
        "lr": LR,
        "epochs": linear(1, 100),
        "beta": log(0.01, 1.0),
        "alpha": log(1e-5, 1.0),
        "bound": log(0.5, 3.0),
        "rank": (4, 8, 16),
    }

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that there are matrices of that rank.

        Raises:
            ConfigError: there is no linear map that could be changed, or the rank is too high.
        """
        super().__init__(config, setting)
        self._matrices, self._groups = feed_forward(setting.outline())
        check_rank(config.rank, self._matrices, "gs-lora.rank")

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        forget_set = door.forget_set()
        if config.per_class is not None:
            retained, forget_set = (some_of_each(d, config.per_class, key / "few") for d in (retained, forget_set))
        means, cost = None, Outcome()
        if config.away or config.near:
            means = prototypes(model, objective, (forget_set, retained), config.batch_size)
            cost = Outcome(forward=len(forget_set) + len(retained))
        own = objective.training_on(forget_set)
        batches = Endless(own, forget_set, config.batch_size, key / "forgotten")
        push = Push(own, batches, config, config.bound * math.log(objective.num_outputs), means)
        steps = self._steps(model, len(retained), key / "factors")
        outcome = cost + fit(model, objective, retained, config, key, [push], steps)
        more = Outcome(forward=push.passed, backward=push.passed, losses={"forget": push.forgotten})
        return outcome + more + finish(config, learner, retained)

    def _steps(self, model: FlatModel, samples: int, key: Key) -> LowRankSteps:
        config = self.config
        factors = fresh_factors(self._matrices, config.rank, key, model.parameters)
        rates = cosine(config.epochs, min(LEAST_RATE / config.lr, 1.0))
        return LowRankSteps(
            config,
            model.parameters,
            self._matrices,
            factors,
            config.scale / config.rank,
            groups=self._groups,
            sparsity=config.alpha,
            rate=by_epoch(rates, config.num_steps(samples) // config.epochs),
        )
