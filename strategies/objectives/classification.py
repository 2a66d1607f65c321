"""Cross-entropy over a global label space, masked to the task's classes where the model is told the task."""

from __future__ import annotations

from typing import ClassVar, final

import torch
import torch.nn.functional as F

from strategies.objectives._base import FisherEstimator, Objective
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError
from streams.source import Source


class Config(BaseConfig):
    """`classification` has no options."""


@final
class Classification(Objective):
    """Single-label classification; the score is 1 for a correct argmax over all permitted outputs."""

    measure: ClassVar[str] = "accuracy"

    def __init__(
        self,
        num_classes: int,
        task_classes: tuple[tuple[int, ...], ...] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Allow all outputs, or for samples with task label t only the classes ``task_classes[t]``."""
        self._num_classes = num_classes
        self._forbidden: torch.Tensor | None = None
        if task_classes is not None:
            forbidden = torch.ones(len(task_classes), num_classes, dtype=torch.bool)
            for task, classes in enumerate(task_classes):
                forbidden[task, list(classes)] = False
            self._forbidden = forbidden.to(device)

    @classmethod
    def for_data(
        cls,
        config: BaseConfig,
        source: Source,
        task_classes: tuple[tuple[int, ...], ...] | None,
        device: str | torch.device,
    ) -> Classification:
        """Use the source's whole label space."""
        if source.y.is_floating_point():
            raise ConfigError(f"objective: {source.name!r} has real-valued targets; set objective: regression.")
        return cls(source.num_classes, task_classes, device)

    @property
    def num_outputs(self) -> int:
        """One output per class of the global label space."""
        return self._num_classes

    @property
    def masks(self) -> bool:
        """Whether the model is told the task and only the task's outputs are permitted."""
        return self._forbidden is not None

    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return logits ``[B, C]``; minus infinity outside the sample's task."""
        return self.mask(model(batch.x), batch)

    def mask(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Set the logits of classes outside each sample's task to minus infinity."""
        if self._forbidden is None or batch.task is None:
            return logits
        return logits.masked_fill(self._forbidden.index_select(0, batch.task), float("-inf"))

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return -log p(y | x)."""
        return F.cross_entropy(outputs, batch.y, reduction="none")

    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return 1 where the argmax is the label, else 0."""
        return (outputs.argmax(1) == batch.y).float()

    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the softmax."""
        return outputs.softmax(1)

    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `Objective.fisher_terms`.

        exact: sum_c p(c|x) (d log p(c|x))^2. sampled: one label drawn from p. empirical and batch: the true label.
        p-weighted: the true label, weighted by p(y|x).
        """
        log_p = outputs.log_softmax(1)
        p = log_p.detach().exp()
        one = torch.ones(len(batch), device=outputs.device)
        if estimator == "exact":
            allowed = [c for c in range(self._num_classes) if bool((p[:, c] > 0).any())]
            # The probability of a masked class is 0 and its log is -inf: 0 x inf must not reach the gradient.
            return [(p[:, c], -log_p[:, c].masked_fill(p[:, c] == 0, 0.0)) for c in allowed]
        if estimator == "sampled":
            labels = torch.multinomial(p.cpu(), 1, generator=generator).to(outputs.device)
            return [(one, -log_p.gather(1, labels).squeeze(1))]
        true = -log_p.gather(1, batch.y.unsqueeze(1)).squeeze(1)
        return [(true.detach().neg().exp() if estimator == "p-weighted" else one, true)]
