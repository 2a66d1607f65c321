"""What every objective gives: outputs, per-sample losses and scores, and the label draws that a Fisher needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F

from strategies.measurement import Measurement
from strategies.parts.model import FlatModel
from streams.config import Config
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.source import Source

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


class Objective(ABC):
    """From (model, batch) to per-sample numbers; strategies are written against this and fit every kind of task."""

    measure: ClassVar[str]
    """Name of the score; higher is better."""
    by_class: ClassVar[bool] = True
    """Whether an output column stands for a class, so that a model can speak for some of them only."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Width of the model's output layer."""

    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs ``[B, num_outputs]``."""
        return model(*batch.inputs)

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
        """Return the penultimate features of every sample, ``[B, F]``."""
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
