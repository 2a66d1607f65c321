"""Cross-entropy or BCE over a global label space, masked to the task's classes where the model is task-aware."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from typing_extensions import override

from strategies.metric import Metric
from strategies.objectives._base import (
    ClassObjective,
    FisherEstimator,
    NamedObjective,
    Objective,
    Predicts,
    RowLosses,
    Scored,
)
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.source import Source

Loss = Literal["ce", "bce"]
Mask = Literal["none", "batch", "experience"]


class Config(BaseConfig):
    """Options of `classification`. They change what is trained on; evaluation is the same for all of them."""

    loss: Loss = "ce"
    """ce: softmax cross-entropy. bce: sigmoid and binary cross-entropy, the mean over the outputs that count."""
    mask: Mask = "none"
    """Which outputs count in the training loss. none: all. batch: classes that occur in the mini-batch (SCoLe, arXiv
    2207.04543). experience: classes of the experience, and of what is replayed with it. Unlearners see all outputs: a
    batch of one deleted class would have nothing else that counts, hence no gradient."""


METRICS = {"accuracy": Metric("share of samples that are classified right", "share", "higher", 1.0)}


@final
class Classification(ClassObjective, NamedObjective):
    """Single-label classification; the score is 1 for a correct argmax over all permitted outputs."""

    measure: ClassVar[str] = "accuracy"

    def __init__(
        self,
        num_classes: int,
        task_classes: tuple[tuple[int, ...], ...] | None = None,
        device: str | torch.device = "cpu",
        loss: Loss = "ce",
        mask: Mask = "none",
    ) -> None:
        """Allow all outputs, or for samples with task label t only the classes ``task_classes[t]``."""
        self.loss: Loss = loss
        self.training_mask: Mask = mask
        self._num_classes = num_classes
        self._forbidden: torch.Tensor | None = None
        if task_classes is not None:
            forbidden = torch.ones(len(task_classes), num_classes, dtype=torch.bool)
            for task, classes in enumerate(task_classes):
                forbidden[task, list(classes)] = False
            self._forbidden = forbidden.to(device)

    @classmethod
    @override
    def for_data(
        cls,
        config: BaseConfig,
        source: Source,
        task_classes: tuple[tuple[int, ...], ...] | None,
        device: str | torch.device,
    ) -> Classification:
        """Use the source's whole label space."""
        if source.text is not None:
            raise ConfigError(f"objective: {source.name!r} is text; set objective: causal-lm.")
        if source.y.is_floating_point():
            raise ConfigError(f"objective: {source.name!r} has real-valued targets; set objective: regression.")
        assert isinstance(config, Config)
        return cls(source.num_classes, task_classes, device, config.loss, config.mask)

    @property
    @override
    def num_outputs(self) -> int:
        """One output per class of the global label space."""
        return self._num_classes

    @property
    @override
    def masks(self) -> bool:
        return self._forbidden is not None

    @override
    def mask(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        if self._forbidden is None or batch.task is None:
            return logits
        return logits.masked_fill(self._forbidden.index_select(0, batch.task), float("-inf"))

    @override
    def widened(self, num_outputs: int, task_classes: tuple[tuple[int, ...], ...] | None) -> Classification:
        device = "cpu" if self._forbidden is None else self._forbidden.device
        return Classification(num_outputs, task_classes, device)

    @override
    def training_on(self, data: Data) -> Objective:
        if self.loss == "ce" and self.training_mask == "none":
            return self
        return _Training(self, data)

    @override
    def for_unlearning(self) -> Objective:
        """Return the objective with the chosen loss and without its mask."""
        if self.training_mask == "none":
            return self
        other = copy.copy(self)
        other.training_mask = "none"
        return other

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return -log p(y | x) under the softmax."""
        return F.cross_entropy(outputs, batch.y, reduction="none")

    @property
    @override
    def row_losses(self) -> RowLosses | None:
        return None if self.masks else _CrossEntropies(self._num_classes)

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return 1 where the argmax is the label, else 0."""
        return (outputs.argmax(1) == batch.y).float()

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return outputs.softmax(1)

    @override
    def responses(self, outputs: torch.Tensor, batch: Batch, everywhere: bool = False) -> Scored:
        return Scored(outputs, batch.y, torch.arange(len(batch), device=outputs.device), len(batch))

    @override
    def margins(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return z_y - log sum_(k != y) exp z_k: the log odds of the label, exact however sure the model is."""
        labels = batch.y.unsqueeze(1)
        others = outputs.scatter(1, labels, float("-inf"))
        return outputs.gather(1, labels).squeeze(1) - others.logsumexp(1)

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `Objective.fisher_terms`.

        exact: sum_c p(c|x) (d log p(c|x))^2. sampled: one label drawn from p. empirical and batch: the true label.
        p-weighted: the true label, weighted by p(y|x).
        """
        log_p = outputs.log_softmax(1)
        p = log_p.detach().exp()
        ones = torch.ones(len(batch), device=outputs.device)
        if estimator == "exact":
            allowed = [c for c in range(self._num_classes) if bool((p[:, c] > 0).any())]
            # The probability of a masked class is 0 and its log is -inf: 0 x inf must not reach the gradient.
            return [(p[:, c], -log_p[:, c].masked_fill(p[:, c] == 0, 0.0)) for c in allowed]
        if estimator == "sampled":
            labels = torch.multinomial(p.cpu(), 1, generator=generator).to(outputs.device)
            return [(ones, -log_p.gather(1, labels).squeeze(1))]
        true = -log_p.gather(1, batch.y.unsqueeze(1)).squeeze(1)
        return [(true.detach().neg().exp() if estimator == "p-weighted" else ones, true)]


_NO_REDUCTION, _NOTHING_IGNORED = 0, -100


@final
class _CrossEntropies:
    """Cross-entropies under the softmax, with the operations that a graph would call."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def weighed(self, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        like = torch.empty(targets.numel(), self._num_classes)
        slopes = torch.ops.aten.nll_loss_backward(
            weights.reshape(-1), like, targets.reshape(-1), None, _NO_REDUCTION, _NOTHING_IGNORED, like[:1, 0]
        )
        return slopes.view(*targets.shape, self._num_classes)

    def slopes(self, outputs: torch.Tensor, weighed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = torch.log_softmax(outputs, 1)
        return log_p, torch._log_softmax_backward_data(weighed, log_p, 1, log_p.dtype)

    def losses(self, noted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses: torch.Tensor = torch.ops.aten.nll_loss_forward(noted, targets, None, _NO_REDUCTION, _NOTHING_IGNORED)[0]
        return losses


def bce_losses(outputs: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy of every sample, ``[B]``: the mean over the outputs that count.

    Args:
        outputs: logits ``[B, C]``; those that do not count may be infinite.
        targets: probabilities ``[B, C]``.
        counts: bool ``[B, C]``; at least one output of each sample counts.
    """
    z = outputs.masked_fill(~counts, 0.0)
    each = (F.softplus(z) - z * targets).masked_fill(~counts, 0.0)
    return each.sum(1) / counts.sum(1)


@final
class _Training(Objective):
    """The classification objective while training on some data: its loss and mask are the chosen ones."""

    predicts: ClassVar[Predicts] = "classes"
    measure: ClassVar[str] = "accuracy"

    def __init__(self, plain: Classification, data: Data) -> None:
        self._plain = plain
        targets = data.targets()
        self._taught = torch.zeros(plain.num_outputs, dtype=torch.bool, device=targets.device)
        if plain.training_mask == "none":
            self._taught.fill_(True)
        else:
            self._taught[targets] = True

    @property
    @override
    def num_outputs(self) -> int:
        return self._plain.num_outputs

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        return self._plain.outputs(model, batch)

    @property
    @override
    def passes_once(self) -> bool:
        return self._plain.passes_once

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        counts = torch.zeros_like(self._taught) if self._plain.training_mask == "batch" else self._taught.clone()
        counts[batch.y] = True
        if self._plain.loss == "ce":
            return self._plain.losses(outputs.masked_fill(~counts, float("-inf")), batch)
        return bce_losses(outputs, F.one_hot(batch.y, self.num_outputs).to(outputs), counts & outputs.isfinite())

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._plain.scores(outputs, batch)

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        return self._plain.probabilities(outputs, batch)

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # All classes of the data count, also under a per-batch mask: a sample's term must not depend on its neighbours.
        # BCE is the likelihood of independent labels, so that the expectation over them is a sum over outputs:
        # E (d l)^2 = sum_c p_c (1 - p_c) (d z_c)^2.
        if self._plain.loss == "ce":
            outputs = outputs.masked_fill(~self._taught, float("-inf"))
            return self._plain.fisher_terms(outputs, batch, estimator, generator)
        counts = self._taught & outputs.isfinite()
        z = outputs.masked_fill(~counts, 0.0)
        p, num = z.detach().sigmoid(), counts.sum(1)
        ones = torch.ones(len(batch), device=outputs.device)
        if estimator == "exact":
            weights = (p * (1 - p) / num.unsqueeze(1).square()).masked_fill(~counts, 0.0)
            return [(weights[:, c], z[:, c]) for c in range(self.num_outputs) if bool(counts[:, c].any())]
        targets = F.one_hot(batch.y, self.num_outputs).to(outputs)
        if estimator == "sampled":
            targets = torch.bernoulli(p.cpu(), generator=generator).to(outputs)
        losses = bce_losses(outputs, targets, counts)
        return [((-losses.detach() * num).exp() if estimator == "p-weighted" else ones, losses)]
