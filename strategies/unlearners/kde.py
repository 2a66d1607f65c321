"""KDE: draw the first convolution and the head anew; lead the model back to its own old answers, then to the labels."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.objectives._base import ClassObjective, Objective
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.divergence import softened_kl
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.rates import at_rates, cosine
from strategies.parts.weights.layers import first_convolution, redraw_some
from strategies.ranges import LR, linear, log
from strategies.unlearners._distil import taught
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `kde` (an entry of the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    warmup_epochs: int = Field(3, ge=1)
    """Passes of the first phase, which learns the teacher's answers alone."""
    warmup_share: float = Field(0.1, gt=0, le=1)
    """Share of the retained data that these passes go over, drawn by name. It stands for the validation data of the
    released code, which deletion in a stream does not have."""
    warmup_lr: float = Field(9e-4, gt=0)
    """Learning rate of the first phase."""
    epochs: int = Field(3, ge=1)
    """Passes of the second phase, over all retained data; its learning rate falls by a cosine from one to the next."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the first of them."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`; each phase begins with none."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    temperature: float = Field(5.0, gt=0)
    """T, which softens teacher and student."""


@final
class Answers(Hooks):
    """Adds the loss of the labels, or none, and the divergence from the teacher's softened answers.

    Beside labels the divergence counts twice: the released code adds it to the cross-entropy with the same softened
    answers, whose gradient is the same. There is no factor T^2.
    """

    carries = ()

    def __init__(self, objective: Objective, teacher: FlatModel, temperature: float, labels: bool) -> None:
        """Learn from `teacher`, and from `labels` or not."""
        self._objective = ClassObjective.of(objective)
        self._teacher, self._temperature, self._labels = teacher, temperature, labels

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        t = self._temperature
        apart = softened_kl(outputs, taught(self._objective, self._teacher, outputs, batch), t) / t**2
        return losses + 2 * apart if self._labels else apart


@final
class KDE(RetainUnlearner):
    """Resets both ends of the network, and distils what it was into it, on retained data; D_f is not looked at.

    It needs retained data: there is nothing else to train on. The teacher saw the forget set; it is asked about
    retained data alone, and dropped when the request is served.
    """

    reads_forget_set = False

    test_options = {"warmup_epochs": 1, "epochs": 1, "warmup_share": 0.5}
    config: Config
    supports = frozenset({"classes"})
    ranges = {
        "warmup_lr": LR,
        "lr": LR,
        "temperature": log(1.0, 10.0),
        "warmup_epochs": linear(1, 20),
        "epochs": linear(1, 20),
        "batch_size": (16, 64, 256),
    }

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        teacher = frozen_copy(self.setting, model)
        mask = model.mask("head").bool() | first_convolution(model)
        redraw_some(model, mask, self.setting.make_model(), key / "draw")
        count = max(round(config.warmup_share * len(retained)), 1)
        few = retained.part(np.sort((key / "warmup").first(retained.ids, count)))
        warmup = config.model_copy(update={"epochs": config.warmup_epochs, "lr": config.warmup_lr})
        soft, both = (Answers(objective, teacher, config.temperature, labels) for labels in (False, True))
        outcome = fit(model, objective, few, warmup, key / "warmup", [soft])
        optimizer = at_rates(config, model.parameters, cosine(config.epochs), len(retained))
        outcome += fit(model, objective, retained, config, key / "repair", [both], optimizer)
        return outcome + Outcome(forward=outcome.forward) + finish(config, learner, retained)
