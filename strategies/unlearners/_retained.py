"""What unlearners that train on retained data share: which data that is, and batch norms that are estimated on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Unlearner
from strategies.outcome import LastDraw, Outcome
from strategies.parts.fit import FitConfig
from strategies.parts.memory.buffers import keep_uniform
from strategies.unlearners._norms import recalibrate
from streams.data import Data
from streams.errors import StreamError
from streams.events import DeletionRequest
from streams.positions import positions_in
from streams.randomness import Key

RetainedData = Literal["full", "memory", "draw"]
"""All live data; what the learner's plugins keep; or what its selection drew last, spread over its clusters."""


class RetainConfig(FitConfig):
    """Options of everything that trains on retained data."""

    retained: RetainedData = "full"
    """Use all live data, what the learner's plugins keep (a replay memory), or what its selection (adapt-infinity,
    random-selection ...) drew last."""
    recalibrate: bool = False
    """Afterwards reset the running statistics of batch norms and estimate them anew on the retained data. Otherwise
    deleted samples still shape them, also where `bn_mode: eval` leaves them alone."""


class DefaultRetainConfig(RetainConfig):
    """The same with what is commonly published for CIFAR (SGD .01 / .9, weight decay 5e-4, batch 256)."""

    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""


def retained_access(retained: RetainedData, forget_set: bool) -> Access:
    """Return the access to declare: all live data, or only what the learner keeps (its own declaration)."""
    return Access(forget_set=forget_set, retained="full" if retained == "full" else 0)


def retained_data(retained: RetainedData, learner: Learner, door: Door) -> Data:
    """Borrow all live data, what the learner's plugins keep, or what was drawn last; it may be empty."""
    if retained == "full":
        return door.retained()
    return door.fetch(learner.stored_ids() if retained == "memory" else learner.part(LastDraw).ids)


def some_retained_data(retained: RetainedData, learner: Learner, door: Door, request: DeletionRequest) -> Data:
    """Borrow it where the method cannot do without.

    Raises:
        StreamError: nothing is left.
    """
    data = retained_data(retained, learner, door)
    if not len(data):
        raise StreamError(
            f"{request.name} leaves nothing to retain: "
            + ("all that was learned is deleted." if retained == "full" else "the learner keeps nothing else.")
            + " Use an unlearner that needs no retained data, such as retrain or gradient-ascent"
            + ("." if retained == "full" else ", or retained: full.")
        )
    return data


class ReadsRetained(Unlearner, ABC):
    """An unlearner that looks at the forget set, and at retained data where there is any."""

    config: Any
    """A `RetainConfig`, or another with the option `retained`."""
    reads_forget_set: ClassVar[bool] = True
    """Whether it looks at the forget set; others work on the retained data alone."""

    @property
    @override
    def access(self) -> Access:
        return retained_access(self.config.retained, self.reads_forget_set)


class RetainUnlearner(ReadsRetained, ABC):
    """One that cannot do without retained data; none of them is exact."""

    @property
    @override
    def needs_retained(self) -> bool:
        return True

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        retained = some_retained_data(self.config.retained, learner, door, request)
        key = self.setting.key / self.name / request.name
        return self.serve(request, learner, retained, door, key).graded("none")

    @abstractmethod
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        """Change the learner's model; return what that cost.

        Args:
            request: what is asked.
            learner: whose model is changed.
            retained: what may be trained on; not empty.
            door: lends the forget set.
            key: names all draws of this request.
        """


def finish(config: RetainConfig, learner: Learner, data: Data) -> Outcome:
    """Estimate batch norms anew if that is wanted; return what it cost."""
    if not config.recalibrate:
        return Outcome()
    return recalibrate(learner.model, learner.setting.objective, data, config.batch_size)


def some_of_each(data: Data, per_class: int, key: Key) -> Data:
    """Return at most `per_class` samples of every class, drawn by name."""
    labels = data.targets().cpu().numpy()
    kept = [keep_uniform(data.ids[labels == c], per_class, key) for c in np.unique(labels)]
    return data.part(positions_in(data.ids, np.sort(np.concatenate(kept))))


def live_classes(data: Data, num_classes: int) -> torch.Tensor:
    """Return which classes occur in the data, bool ``[K]``."""
    live = torch.zeros(num_classes, dtype=torch.bool, device=data.targets().device)
    live[data.targets()] = True
    return live


def members(ids: np.ndarray, num_samples: int, device: torch.device) -> torch.Tensor:
    """Return a bool column ``[N]``: whether a sample is one of `ids`."""
    is_member = torch.zeros(num_samples, dtype=torch.bool)
    is_member[torch.tensor(ids)] = True
    return is_member.to(device)
