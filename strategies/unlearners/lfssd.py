"""LFSSD: SSD without labels, by how much each weight moves the size of the outputs."""

from __future__ import annotations

from typing import final

import torch
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.parts.weights.fisher import output_sensitivity
from strategies.ranges import log
from strategies.unlearners._dampen import DampenConfig, dampen, dampen_access
from streams.data import Data
from streams.events import DeletionRequest


class Config(DampenConfig):
    """Options of `lfssd` (loss-free SSD)."""


@final
class LFSSD(Unlearner):
    """Dampens by mean_x |d ||f(x)||^2 / d theta|; labels are not read."""

    config: Config
    ranges = {"alpha": log(0.1, 100.0), "strength": log(0.1, 5.0)}

    @property
    @override
    def access(self) -> Access:
        return dampen_access(self.config)

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return ("importance-log",) if self.config.whole == "stored" else ()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        def importance(data: Data) -> tuple[torch.Tensor, Outcome]:
            return output_sensitivity(learner.model, self.setting.objective, data)

        return dampen(self.config, "output", importance, learner, door)
