"""Embedding inversion: find one vector, in place of the word that was deleted, under which the model draws it again."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from lifelong.audits._attacks import Attack, AttackConfig, Target, Words
from lifelong.audits._base import Values
from strategies.metric import Metric
from strategies.parts.diffusion.parts import word_embedding
from strategies.parts.diffusion.prompts import NOTHING
from strategies.parts.diffusion.schedules import STEPS
from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import OptimizerConfig, make_optimizer
from strategies.parts.weights.recording import recorded


class Config(AttackConfig):
    """Options of `invert` (Pham et al. 2024, arXiv 2308.01508: textual inversion as an attack)."""

    steps: int = Field(120, ge=0)
    """Steps of the vector (Adam)."""
    lr: float = Field(0.02, gt=0)
    """Its learning rate."""
    batch_size: int = Field(32, ge=1)
    """Noised images per step."""


METRICS = {
    "inverted": Metric(
        "Share of images for prompts that a request deleted in which the judge sees what goes, with one vector in "
        "place of its word that was fitted to real images of it. An attacker with images can teach any model: only "
        "the difference from the retrained one says what was left.",
        "share",
        "reference",
    )
}


@final
class Invert(Attack):
    """Moves one vector for all prompts of a request, and nothing else."""

    config: Config
    metrics: ClassVar[tuple[str, ...]] = ("inverted",)
    averaged: ClassVar[tuple[str, ...]] = ("inverted", "gap_inverted")

    @override
    def attack(self, model: FlatModel, target: Target) -> Values:
        config, place = self.config, self._place(target)
        vector = self._embedded(model, target, place)
        optimizer = make_optimizer(OptimizerConfig(optimizer="adam", lr=config.lr), vector.view(-1))
        places, device = np.arange(config.batch_size), vector.device
        for step in range(config.steps):
            key = target.key / "invert" / step
            rows = (key / "rows").below(places, len(target.prompts))
            some = Target(target.prompts[rows], target.axis, target.noise[rows], target.clean[rows], key)
            time = torch.from_numpy((key / "time").below(places, STEPS)).to(device)
            noise = torch.from_numpy((key / "noise").normals(places, target.clean.shape[1])).to(target.clean)
            free = vector.clone().requires_grad_()
            put = Words(free.expand(config.batch_size, 1, -1), place, before=False)
            (gradient,) = torch.autograd.grad(self.error(model, some, noise, time, put).mean(), free)
            optimizer.step(vector.view(-1), gradient.reshape(-1))
        put = Words(vector.expand(len(target.prompts), 1, -1), place, before=False)
        return {"inverted": float(self.draws(model, target, target.noise, put).mean())}

    def _place(self, target: Target) -> int:
        """Return where the word stands that names what was deleted: the first that changes if it is not named."""
        prompts = torch.from_numpy(target.prompts[:1])
        without = prompts.clone()
        without[:, target.axis % 2] = NOTHING
        differs = (self.objective.tokens(prompts) != self.objective.tokens(without))[0]
        return int(differs.int().argmax())

    def _embedded(self, model: FlatModel, target: Target, place: int) -> torch.Tensor:
        """Return the vector of that word as it is, ``[1, size]``: where to start."""
        time = torch.zeros(1, dtype=torch.int64, device=target.clean.device)
        prompts = torch.from_numpy(target.prompts[:1]).to(time.device)
        with torch.no_grad(), recorded([word_embedding(model.network)]) as calls:
            self.objective.outputs(model, self.objective.asking(target.clean[:1], time, prompts))
        ((_, _, embedded),) = calls
        return embedded[:, place].clone()
