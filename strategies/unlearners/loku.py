"""LoKU: the inverted hinge on low-rank factors that start where the forget set's Fisher information is."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.objectives._text import TextObjective
from strategies.parts.lowrank.changes import Factors, LowRankSteps, Matrix, check_rank, fresh_factors, matrices_of
from strategies.parts.model import FlatModel
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._hinge import Invert
from strategies.unlearners._paired import PairedConfig, paired
from strategies.unlearners._retained import retained_access, retained_data, some_retained_data
from streams.data import Data
from streams.events import DeletionRequest


class Config(PairedConfig):
    """Options of `loku` (Cha et al. 2024, arXiv 2408.06621): `ihl` with adapters that FILA starts."""

    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights; published for low-rank adapters of 1.3 to 7 billion: 1e-4 to
    2e-4."""
    rank: int = Field(8, ge=1)
    """Rank of the adapters; published 4 to 32."""
    alpha: float = Field(16.0, gt=0)
    """They are scaled by alpha / rank; published twice the rank."""
    start: Literal["fila", "plain"] = "fila"
    """fila: at the part of the weights that matters to the forget set and not to retained data. plain: at no change, as
    LoRA usually does; this reads no retained data by itself."""
    fisher_batch: int = Field(1, ge=1)
    """Samples whose mean gradient is squared for FILA. The authors' code takes whole batches, which is no Fisher
    information."""
    fisher_samples: int | None = Field(None, ge=1)
    """Retained samples that FILA looks at, drawn by name; null takes as many as there are to forget, as published with
    its pairs."""


def importance(model: FlatModel, objective: TextObjective, data: Data, batch_size: int) -> torch.Tensor:
    """Return the mean over tokens of the squared gradients of batch means, ``[P]``, in evaluation mode.

    I = sum_b n_b (d l_b)^2 / sum_b n_b, n_b being the tokens of a batch that count and l_b their mean loss; the model's
    gradient is overwritten.
    """
    model.train(False)
    total, count = torch.zeros_like(model.parameters), 0
    for batch in objective.batches(data, batch_size):
        model.gradient.zero_()
        scored_tokens = objective.scored(objective.outputs(model, batch), batch)
        scored_tokens.token_losses().mean().backward()  # type: ignore[no-untyped-call]
        total.add_(model.gradient.square(), alpha=len(scored_tokens.targets))
        count += len(scored_tokens.targets)
    return total / max(1, count)


def fila(weight: torch.Tensor, ratio: torch.Tensor, rank: int, scale: float) -> Factors:
    """Return A ``[r, in]`` and B ``[out, r]`` whose s B A is the part of W that matters most to the forget set.

    With D = diag(sqrt(sum over inputs of I_f / (I_r + 1e-5))) and D W = U S V^T: B = (D + 1e-5)^-1 U sqrt(S / s) and
    A = sqrt(S / s) V^T, of the r largest singular values. The best approximation of rank r in the norm weighted by D.

    Args:
        weight: W ``[out, in]``.
        ratio: I_f / (I_r + 1e-5), of the same shape.
        rank: r.
        scale: s.
    """
    rows = ratio.sum(1).sqrt()
    u, s, v = torch.linalg.svd(rows.unsqueeze(1) * weight, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root.unsqueeze(1) * v[:rank], (u[:, :rank] * root) / (rows + 1e-5).unsqueeze(1)


@final
class LoKU(Unlearner):
    """Trains adapters by the inverted hinge and retained data; their product stays in the weights afterwards."""

    test_options = {"epochs": 1, "rank": 4, "fisher_batch": 16}
    config: Config
    supports = frozenset({"tokens"})
    ranges = PAIRED_ON_TEXT | {"lr": log(1e-5, 1e-2)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Need text.

        Raises:
            ConfigError: the rank is too high.
        """
        super().__init__(config, setting)
        self._objective = TextObjective.of(setting.objective)
        self._matrices = matrices_of(setting.outline())
        check_rank(config.rank, self._matrices, "unlearner.rank")

    @property
    @override
    def access(self) -> Access:
        if self.config.retain == "none" and self.config.start == "plain":
            return Access(forget_set=True)
        return retained_access(self.config.retained, forget_set=True)

    @property
    @override
    def needs_retained(self) -> bool:
        """FILA compares with what is retained."""
        return self.config.start == "fila"

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        key = self.setting.key / "loku" / request.name
        forget_set = door.forget_set()
        scale = config.alpha / config.rank
        cost = Outcome()
        if config.start == "fila":
            retained = some_retained_data(config.retained, learner, door, request)
            factors, cost = self._fila(model, forget_set, retained, request)
        else:
            factors = fresh_factors(self._matrices, config.rank, key / "factors", model.parameters)
        steps = LowRankSteps(config, model.parameters, self._matrices, factors, scale)
        retain_set = None if config.retain == "none" else retained_data(config.retained, learner, door)
        objective = self._objective
        outcome = paired(self.setting, model, objective, forget_set, retain_set, config, Invert(objective), key, steps)
        return (cost + outcome).graded("none")

    def _fila(
        self, model: FlatModel, forget_set: Data, retained: Data, request: DeletionRequest
    ) -> tuple[list[Factors], Outcome]:
        config = self.config
        count = min(config.fisher_samples or len(forget_set), len(retained))
        order = (self.setting.key / "loku" / request.name / "fisher").order(retained.ids)
        compared = retained.part(np.sort(order[:count]))
        of_forget = importance(model, self._objective, forget_set, config.fisher_batch)
        of_retained = importance(model, self._objective, compared, config.fisher_batch)
        ratio = of_forget / (of_retained + 1e-5)
        factors = [self._start(m, model, ratio) for m in self._matrices]
        num_samples = len(forget_set) + len(compared)
        return factors, Outcome(forward=num_samples, backward=num_samples)

    def _start(self, matrix: Matrix, model: FlatModel, ratio: torch.Tensor) -> Factors:
        config = self.config
        return fila(matrix.read(model.parameters), matrix.read(ratio), config.rank, config.alpha / config.rank)
