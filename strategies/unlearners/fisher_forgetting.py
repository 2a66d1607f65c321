"""Fisher forgetting: add noise to every weight, the more the less the retained data depends on it."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.parts.model import FlatModel, is_in
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.ranges import log
from strategies.unlearners._classes import named_classes
from strategies.unlearners._retained import RetainedData, RetainUnlearner, live_classes
from streams.config import Config as BaseConfig
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `fisher-forgetting` (Golatkar et al. 2020, arXiv 1911.04933), as in the authors' code."""

    alpha: float = Field(1e-8, gt=0)
    """Strength of the noise: its variance is alpha / F, capped (published: 1e-9 to 1e-6)."""
    cap: float = Field(1e3, gt=0)
    """Largest 1 / F."""
    head_cap: float = Field(1e2, gt=0)
    """The same for the last layer."""
    head_factor: float = Field(10.0, ge=0)
    """Factor on the variance of the last layer, and of biases and norms."""
    row_variance: float = Field(1e-3, ge=0)
    """A class that is deleted as a whole has its output's weights drawn anew, with mean 0 and this variance: the
    authors' code sets 1e-4, to which its factor 10 for the last layer applies."""
    batch_size: int = Field(256, ge=1)
    """Samples per pass."""
    retained: RetainedData = "full"
    """Estimate the Fisher information on all live data, or on what the learner's plugins keep."""


def noise_variance(model: FlatModel, fisher: torch.Tensor, config: Config) -> torch.Tensor:
    """Return the variance of every weight's noise, ``[P]``.

    alpha min(1 / (F + 1e-8), cap), averaged over a weight's input dimension; the last layer has a cap of its own, and
    it and all vectors (biases, norms) have a factor.
    """
    variance = torch.empty_like(fisher)
    shapes = {name: p.shape for name, p in model.network.named_parameters()}
    for name, where in model.slices.items():
        is_head = is_in(name, "head")
        v = (1 / (fisher[where] + 1e-8)).clamp(max=config.head_cap if is_head else config.cap)
        v = v.view(shapes[name])
        if v.ndim > 1:
            v = v.mean(1, keepdim=True).expand(shapes[name])
        if is_head or v.ndim == 1:
            v = v * config.head_factor
        variance[where] = config.alpha * v.reshape(-1)
    return variance


def output_rows(model: FlatModel, classes: list[int], num_outputs: int) -> torch.Tensor:
    """Return which weights of the head belong to some outputs alone, bool ``[P]``."""
    mask = torch.zeros(len(model.parameters), dtype=torch.bool, device=model.parameters.device)
    positions = torch.arange(len(model.parameters), device=mask.device)
    last = [n for n in model.slices if is_in(n, "head")]
    for name in last:
        where = model.slices[name]
        size = where.stop - where.start
        if size % num_outputs == 0:
            rows = (positions[where] - where.start) // (size // num_outputs)
            mask[where] = torch.isin(rows, torch.tensor(classes, device=mask.device))
    return mask


@final
class FisherForgetting(RetainUnlearner):
    """Scrubs weights with Gaussian noise of variance alpha / F; F is exact, per sample, and on retained data.

    It needs retained data: the Fisher information is taken on it. It reads retained data; of the forget set at most
    the class.
    """

    reads_forget_set = False

    config: Config
    supports = frozenset({"classes"})
    ranges = {"alpha": log(1e-9, 1e-5)}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        fisher, cost = diagonal_fisher(model, objective, retained, "exact", key, config.batch_size)
        variance = noise_variance(model, fisher, config)
        mean = model.parameters.clone()
        live = live_classes(retained, objective.num_outputs)
        gone = [c for c in named_classes(request, self.setting.units) if not live[c]]
        if gone:
            rows = output_rows(model, gone, objective.num_outputs)
            mean[rows], variance[rows] = 0.0, config.row_variance
        noise = torch.randn(len(mean), generator=(key / "noise").torch()).to(mean)
        model.parameters.copy_(mean + variance.sqrt() * noise)
        return cost
