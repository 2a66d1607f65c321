"""Boundary shrink: move the forget set across its nearest decision boundary; needs nothing but the forget set."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.objectives._base import Objective
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import TRAINED, log
from streams.data import Data
from streams.errors import DataError
from streams.events import DeletionRequest


class Config(FitConfig):
    """Options of `boundary-shrink` (Chen et al. 2023, CVPR), as reimplemented in SalUn's code."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    bound: float = Field(0.1, gt=0)
    """Size of the step in the inputs (FGSM, infinity norm)."""
    limits: tuple[float, float] | None = (0.0, 1.0)
    """Inputs are pixels in this range and stay in it; null for inputs that are no pixels."""
    levels: int | None = Field(255, ge=1)
    """Perturbed pixels are rounded to that many steps of the unit interval; null leaves them."""


def nearest_labels(model: FlatModel, objective: Objective, data: Data, config: Config) -> torch.Tensor:
    """Return what the model predicts for the samples after a step up their own loss, ``[n]``; in evaluation mode.

    Raises:
        DataError: inputs lie outside of the limits.
    """
    labels = []
    with evaluating(model):
        for batch in objective.batches(data, config.batch_size):
            x = batch.x.detach().clone().requires_grad_(True)
            losses = objective.losses(objective.outputs(model, replace(batch, x=x)), batch)
            (slope,) = torch.autograd.grad(losses.sum(), x)
            moved = x.detach() + config.bound * slope.sign()
            if config.limits is not None:
                low, high = config.limits
                if float(batch.x.min()) < low or float(batch.x.max()) > high:
                    raise DataError(
                        f"boundary-shrink.limits: inputs reach from {float(batch.x.min()):.3g} to "
                        f"{float(batch.x.max()):.3g}, and must stay in {config.limits}. Name their range, or null."
                    )
                moved = moved.clamp(low, high)
            if config.levels is not None:
                moved = (moved * config.levels).round() / config.levels
            with torch.no_grad():
                outputs = objective.outputs(model, replace(batch, x=moved))
            labels.append(outputs.argmax(1))
    return torch.cat(labels)


@final
class BoundaryShrink(Unlearner):
    """Fine-tunes the forget set on the labels that its perturbed samples get from the original model."""

    test_options = {"epochs": 1, "limits": None}
    config: Config
    supports = frozenset({"classes"})
    ranges = TRAINED | {"bound": log(0.01, 0.5)}

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Find the labels once, then train; the share of attacks that failed is reported as ``label_kept``."""
        data, objective = door.forget_set(), self.setting.objective
        labels = nearest_labels(learner.model, objective, data, self.config)
        kept = float((labels == data.targets()).float().mean())
        key = self.setting.key / "boundary-shrink" / request.name
        cost = Outcome(forward=2 * len(data), backward=len(data), losses={"label_kept": kept})
        return (cost + fit(learner.model, objective, data.relabelled(labels), self.config, key)).graded("none")
