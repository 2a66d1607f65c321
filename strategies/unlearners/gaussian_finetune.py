"""Gaussian fine-tuning (regression): train the forget set on targets drawn from the distribution of all targets."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.fit import fit
from strategies.ranges import LR, linear
from strategies.unlearners._retained import RetainConfig, finish, retained_access, retained_data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `gaussian-finetune` (Gaussian amnesiac; Tarun et al. 2023, arXiv 2210.08196)."""

    epochs: int = Field(1, ge=1)
    """Passes over forget set and retained data together."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate."""


def gaussian_targets(ids: np.ndarray, mean: float, sd: float, key: Key) -> torch.Tensor:
    """Return one draw from N(mean, sd^2) per sample, ``[n]``, a function of `key` and the sample's id alone."""
    u = torch.from_numpy(key.uniform(ids)).clamp(min=2.0**-53)
    return (mean + sd * torch.special.ndtri(u)).float()


@final
class GaussianFinetune(Unlearner):
    """Fine-tunes on all data, with drawn targets on the forget set."""

    config: Config
    supports = frozenset({"numbers"})
    ranges = {"lr": LR, "epochs": linear(1, 10)}

    @property
    @override
    def access(self) -> Access:
        """The forget set (its targets for mean and deviation alone), and retained data with targets."""
        return retained_access(self.config.retained, forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        retained, forget_set = retained_data(self.config.retained, learner, door), door.forget_set()
        key = self.setting.key / "gaussian-finetune" / request.name
        every = torch.cat([retained.targets(), forget_set.targets()])
        drawn = gaussian_targets(forget_set.ids, float(every.mean()), float(every.std(correction=0)), key / "targets")
        data = retained.joined(forget_set.relabelled(drawn.to(every.device)))
        outcome = fit(learner.model, self.setting.objective, data, self.config, key)
        return (outcome + finish(self.config, learner, retained)).graded("none")
