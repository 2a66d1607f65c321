"""Bad Teacher: distil a network of random weights on the forget set and the original model on some retained data."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.objectives._base import ClassObjective, Objective
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.divergence import softened_kl
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.weights.layers import redraw
from strategies.ranges import linear, log
from strategies.unlearners._distil import taught
from strategies.unlearners._retained import RetainConfig, finish, members, retained_access, retained_data
from streams.data import Batch
from streams.events import DeletionRequest


class Config(RetainConfig):
    """Options of `bad-teacher` (Chundawat et al. 2023, arXiv 2205.08096)."""

    epochs: int = Field(1, ge=1)
    """Passes over the forget set and the subset together."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
    subset: float = Field(0.3, gt=0, le=1)
    """Share of the retained data that is used; its labels are not read."""
    temperature: float = Field(1.0, gt=0)
    """T, which softens teachers and student."""
    reduction: Literal["sample", "elementwise"] = "sample"
    """sample: mean over samples of the divergence. elementwise: also over the K outputs, a loss K times smaller, as the
    authors' code and its copies compute by a default of torch."""


@final
class TwoTeachers(Hooks):
    """The divergence from the teacher that a sample belongs to."""

    carries = ()

    def __init__(
        self, objective: Objective, good: FlatModel, bad: FlatModel, is_forget: torch.Tensor, config: Config
    ) -> None:
        """Follow `bad` on the forget set (a bool column ``[N]``) and `good` elsewhere."""
        self._objective, self._good, self._bad = ClassObjective.of(objective), good, bad
        self._is_forget, self._config = is_forget, config

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        forget = self._is_forget[batch.ids].unsqueeze(1)
        bad, good = (taught(self._objective, t, outputs, batch) for t in (self._bad, self._good))
        teacher = torch.where(forget, bad, good)
        divergence = softened_kl(outputs, teacher, self._config.temperature)
        return divergence / outputs.shape[1] if self._config.reduction == "elementwise" else divergence


@final
class BadTeacher(Unlearner):
    """Pulls the forget set's predictions to those of a network that has learned nothing."""

    config: Config
    supports = frozenset({"classes"})
    ranges = {"lr": log(1e-5, 1e-2), "epochs": linear(1, 10), "batch_size": (16, 64, 256), "temperature": log(0.5, 5.0)}

    @property
    @override
    def access(self) -> Access:
        """The inputs of the forget set, and those of some retained data; no labels."""
        return retained_access(self.config.retained, forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Distil; both teachers are dropped at the end."""
        config, model, setting = self.config, learner.model, self.setting
        retained, forget_set = retained_data(config.retained, learner, door), door.forget_set()
        key = setting.key / "bad-teacher" / request.name
        count = round(config.subset * len(retained))
        subset = retained.part(np.sort((key / "subset").order(retained.ids)[:count]))
        good, bad = frozen_copy(setting, model), redraw(setting.make_model(), key / "teacher")
        bad.train(False)
        is_forget = members(forget_set.ids, setting.num_samples, model.parameters.device)
        hooks = [TwoTeachers(setting.objective, good, bad, is_forget, config)]
        outcome = fit(model, setting.objective, subset.joined(forget_set), config, key, hooks)
        outcome += Outcome(forward=2 * outcome.forward) + finish(config, learner, retained)
        return outcome.graded("none")
