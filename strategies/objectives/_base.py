"""What every objective gives: outputs, per-sample losses and scores, and the label draws that a Fisher needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from typing_extensions import override

from strategies.measurement import Measurement
from strategies.parts.model import FlatModel
from strategies.predicts import Predicts as Predicts
from streams.config import Config
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.randomness import Key
from streams.source import Source

EVALUATION = Key(0) / "evaluation"
"""Names what is drawn where a model is looked at and not trained: every look draws the same for a sample."""

FisherEstimator = Literal["exact", "sampled", "empirical", "p-weighted", "batch"]
Without = Literal["image", "image-positions", "prompt"]
"""What to take from an input: an image's content, or its place in the row, too, or all that comes before the answer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The positions of a batch that count, one after the other.

    Attributes:
        logits: ``[S, V]`` what the model says of each.
        targets: int64 ``[S]`` the token that is there.
        rows: int64 ``[S]`` whose row of the batch it is, ascending.
        num_rows: B.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    num_rows: int

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of ``values [S]`` over the positions of each row, ``[B]``."""
        return values.new_zeros(self.num_rows).index_add(0, self.rows, values)

    @property
    def counts(self) -> torch.Tensor:
        """Return how many positions each row has, int64 ``[B]``, at least 1."""
        return torch.bincount(self.rows, minlength=self.num_rows).clamp(min=1)

    def token_losses(self) -> torch.Tensor:
        """Return -log p of each target, ``[S]``."""
        return F.cross_entropy(precise(self.logits), self.targets, reduction="none")


def precise(values: torch.Tensor) -> torch.Tensor:
    """Return half-precision numbers in single precision, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class RowLosses(Protocol):
    """Losses of which each is a function of one row of outputs and its target, with their gradient.

    The bits are those that a graph would give, and those of a row depend on no other row.
    """

    def weighed(self, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return what `slopes` needs of ``targets [..., B]`` whose losses are weighed by ``weights [..., B]``."""

    def slopes(self, outputs: torch.Tensor, weighed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `losses` needs, and the gradient ``[B, C]`` of the weighed sum by ``outputs [B, C]``."""

    def losses(self, noted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the losses ``[B]``, given what `slopes` has noted."""


class Objective(ABC):
    """From (model, batch) to per-sample numbers; strategies are written against this and fit every kind of task."""

    predicts: ClassVar[Predicts]
    """What the model predicts; decides which methods can serve it."""
    measure: ClassVar[str]
    """Name of the score; higher is better."""
    by_class: ClassVar[bool] = True
    """Whether an output column stands for a class, so that a model can speak for some of them only."""

    @classmethod
    def of(cls, objective: Objective) -> Self:
        """Return an objective as one of this kind, for a method that needs what this kind has.

        Raises:
            ConfigError: it is of another kind.
        """
        if not isinstance(objective, cls):
            raise ConfigError(
                f"objective: {type(objective).__name__} predicts {objective.predicts} and is no {cls.__name__}, which "
                f"a method of this run needs. Derive it from strategies.objectives.{cls.__module__.rpartition('.')[2]}."
                f"{cls.__name__}, or choose another method."
            )
        return objective

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Width of the model's output layer."""

    def sizes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Return what models are built for: the shape of one input, and the width of the output layer.

        An objective that gives its models other inputs than samples are says of which sizes.

        Args:
            input_shape: of a sample.
        """
        return input_shape, self.num_outputs

    def drawn(self, batch: Batch, key: Key) -> Batch:
        """Return the batch with all that its losses draw by chance (noise, time steps, masks) in `Batch.extra`.

        Called once in a step, before the model is passed, so that outputs and losses are functions of model and batch:
        teacher and student see the same noise. What is drawn for a sample must depend on `key` and its id alone
        (`Key.uniform`, `Key.normals`). An objective that draws nothing returns the batch itself.
        """
        return batch

    @property
    def draws(self) -> bool:
        """Whether it draws anything, so that a sample's outputs differ from step to step."""
        return type(self).drawn is not Objective.drawn

    def batches(self, data: Data, size: int, key: Key | None = None) -> list[Batch]:
        """Return all samples in batches of `size`, with what the objective draws.

        Args:
            data: samples.
            size: of a batch; a short last one stays.
            key: shuffles them and names what is drawn; None takes them in order, with the draws of evaluation.
        """
        return [self.drawn(batch, EVALUATION if key is None else key) for batch in data.batches(size, key)]

    def asked(self, batch: Batch) -> Batch:
        """Return a batch as a strategy gets it to predict: ids are -1, and targets -1 or NaN.

        Losses and scores are computed outside of the strategy, on the batch itself. What a model needs as its input
        stays: `x` (of text with its answer, which losses of tokens need), `task`, `extra`. An objective whose models
        are told the target overrides this.
        """
        unknown = float("nan") if batch.y.is_floating_point() else -1
        return replace(batch, ids=torch.full_like(batch.ids, -1), y=torch.full_like(batch.y, unknown))

    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs ``[B, num_outputs]`` for a batch that was `drawn`."""
        return model(*batch.inputs)

    @property
    def passes_once(self) -> bool:
        """Whether `outputs` calls the model with the batch's inputs, and does nothing else with it."""
        return type(self).outputs is Objective.outputs

    @property
    def row_losses(self) -> RowLosses | None:
        """Its losses in a form that needs no graph, where `outputs` are those of the model; None if there is none."""
        return None

    def training_on(self, data: Data) -> Objective:
        """Return the objective to train on `data` with, and to take its Fisher by.

        It may weigh outputs otherwise than evaluation does; outputs, scores and probabilities are the same.
        """
        return self

    def for_unlearning(self) -> Objective:
        """Return the objective whose losses unlearners raise, lower and compare."""
        return self

    @abstractmethod
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of every sample, ``[B]``, unreduced."""

    def mean_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return -log p of every sample, ``[B]``: of a text the mean over its tokens, however batches are reduced."""
        return self.losses(outputs, batch)

    def log_likelihoods(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return log p(target | input) of every sample, ``[B]``, up to a constant."""
        return -self.losses(outputs, batch)

    def divergences(self, outputs: torch.Tensor, reference: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return KL(reference || model) of every sample, ``[B]``, given the outputs of both.

        Raises:
            ConfigError: the objective predicts no distribution.
        """
        p, q = self.probabilities(outputs, batch), self.probabilities(reference, batch)
        if p is None or q is None:
            raise ConfigError(f"objective: a divergence needs predicted distributions; {self.measure} has none.")
        tiny = torch.finfo(p.dtype).tiny
        return (q * (q.clamp(min=tiny).log() - p.clamp(min=tiny).log())).sum(1)

    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the penultimate features of every sample, ``[B, F]``: what the body makes of it."""
        return model.features(*batch.inputs)

    def embeddings(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return what every sample means to the model, ``[B, F]``: its features, in text the mean over its row."""
        return self.features(model, batch)

    def responses(self, outputs: torch.Tensor, batch: Batch, everywhere: bool = False) -> Scored:
        """Return what the model says of every response token; a label is a response of one token.

        Args:
            outputs, batch: of the model.
            everywhere: count all positions, those of the prompt too.

        Raises:
            ConfigError: the objective predicts no distribution.
        """
        raise ConfigError(f"objective: response tokens need predicted distributions; {self.measure} has none.")

    def without(self, batch: Batch, what: Without) -> tuple[Batch, torch.Tensor] | None:
        """Return the batch without a part of its input, and which samples had it (bool ``[B]``).

        None where inputs have no such part.
        """
        return None

    @abstractmethod
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the score of every sample, float ``[B]``; higher is better."""

    @abstractmethod
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        """Return the predicted distribution ``[B, K]``, or None where the objective has none."""

    def margins(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        """Return log p(y | x) - log(1 - p(y | x)) of every sample, ``[B]``, or None where no class is predicted."""
        return None

    def measurements(self) -> tuple[Measurement, ...]:
        """Return what takes more than one forward pass to measure; nothing by default."""
        return ()

    def blend(self, outputs: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the outputs that predict the mean of what several models predict; of one model: its own."""
        if len(outputs) == 1:
            return outputs[0]
        said = [self.probabilities(o, batch) for o in outputs]
        known = [p for p in said if p is not None]
        return torch.stack(known).mean(0).log() if known else torch.stack(list(outputs)).mean(0)

    @abstractmethod
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return pairs of weights ``[B]`` (no gradient) and log losses ``[B]``.

        The diagonal Fisher is the mean over samples of the sum over pairs of weight x (d loss / d theta)^2.
        """


class ClassObjective(Objective):
    """One that predicts one of the classes of the label space; a model that knows the task is masked to its classes."""

    predicts: ClassVar[Predicts] = "classes"
    loss: str = "ce"
    """Training loss: ce, or another that `training_on` brings."""
    training_mask: str = "none"
    """Which outputs count in it: all (none), or fewer."""

    @property
    def masks(self) -> bool:
        """Whether the model is task-aware and only the task's outputs are permitted."""
        return False

    def logits(self, model: Callable[..., torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return what a model, or whatever is called like one, says of all classes, ``[B, C]``, before any mask."""
        return model(*batch.inputs)

    def mask(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Set the logits of classes outside each sample's task to minus infinity."""
        return logits

    def widened(self, num_outputs: int, task_classes: tuple[tuple[int, ...], ...] | None) -> Objective:
        """Return the plain objective of a model with more outputs; see `boundary-expand`.

        Args:
            num_outputs: of the wider model.
            task_classes: outputs of each task, if the model is task-aware.

        Raises:
            ConfigError: it knows no such form.
        """
        raise ConfigError(f"objective: {type(self).__name__} has no form with more outputs.")

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return logits ``[B, C]``; minus infinity outside the sample's task."""
        return self.mask(self.logits(model, batch), batch)

    @property
    @override
    def passes_once(self) -> bool:
        return type(self).outputs is ClassObjective.outputs and type(self).logits is ClassObjective.logits


class NamedObjective(Objective):
    """An objective that a configuration can name; strategies make others of their own.

    Its module says in `METRICS` what its score means (by the name of `measure`), and what else it brings into tables.
    """

    @classmethod
    @abstractmethod
    def for_data(
        cls,
        config: Config,
        source: Source,
        task_classes: tuple[tuple[int, ...], ...] | None,
        device: str | torch.device,
    ) -> Objective:
        """Build the objective for a source and the classes of each task label, if the model is task-aware.

        Raises:
            ConfigError: the source's targets are of another kind.
        """
