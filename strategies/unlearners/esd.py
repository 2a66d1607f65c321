"""ESD: teach an image generator to answer a prompt as it answers the empty one, and beyond."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.parts.diffusion.prompts import NOTHING
from strategies.ranges import linear, log
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Noised, esd_target


class Config(EraserConfig):
    """Options of `esd` (Gandikota et al. 2023, arXiv 2303.07345).

    Published for Stable Diffusion: 1,000 steps of one image, lr 1e-5, `trajectory: edited`, `trajectory_steps: 50`. Its
    parts: esd-x is `conditioning`, esd-x-strict `key-value`, esd-u `rest`. Code of 2024 and later writes eta as
    `negative_guidance`, which is eta + 1, and walks with the frozen model. `retain` is ours.
    """

    eta: float = 1.0
    """How far beyond the answer to the empty prompt: the target is f(empty) - eta (f(prompt) - f(empty)). 0 stops at
    it, and -1 asks for nothing."""
    trajectory: Literal["noised", "frozen", "edited"] = "noised"
    """Where noisy images come from. noised: noise on images that the served model made before the first step. frozen,
    edited: they are on their way from noise to an image of the served model, or of the one that is trained, which takes
    half a sampling in every step."""
    trajectory_steps: int = Field(50, ge=1, le=1000)
    """Steps of such a way (DDIM)."""
    trajectory_guidance: float = Field(3.0, ge=0)
    """Guidance on it."""
    retain: float = Field(0.0, ge=0)
    """Weight of (f(prompt) - f_served(prompt))^2 on as many images of prompts that stay."""


@final
class ESD(Eraser):
    """Trains a part on images of its own; it needs neither the forget set nor retained data."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4, "trajectory_steps": 4}
    ranges = {"lr": log(1e-5, 1e-2), "steps": linear(20, 500), "eta": linear(0.0, 3.0), "retain": linear(0.0, 4.0)}
    supports = frozenset({"images"})
    config: Config

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        config, model, teacher = self.config, erasure.model, erasure.teacher
        shown = erasure.drawn(erasure.prompts, config.images, "erased")
        kept = erasure.kept(config.retain, config.images)

        def noised(step: int, size: int) -> Noised:
            if config.trajectory == "noised":
                return erasure.noised(shown, size, "forget", step)
            walker = teacher if config.trajectory == "frozen" else model
            way = (config.trajectory_steps, config.trajectory_guidance)
            return erasure.ways(walker, erasure.prompts, size, way, "forget", step)

        def loss_of(step: int, size: int) -> torch.Tensor:
            asked = noised(step, size)
            free = erasure.answers(teacher, asked, torch.full_like(asked.prompts, NOTHING))
            target = esd_target(erasure.answers(teacher, asked), free, config.eta)
            loss = (erasure.says(model, asked) - target).square().mean()
            if kept is None:
                return loss
            return loss + config.retain * erasure.drift(erasure.noised(kept, size, "retain", step))

        return erasure.descend(config, loss_of, passed=1 if kept is None else 2)
